//! A rank other than 0 once all are connected: its share of the machine runs until rank 0 ends it, or a rank is lost. It may leave before that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use vincs_coherence::id::Rank;
use vincs_transport_tcp::latecomers::Latecomers;
use vincs_vmm::cluster::Cluster;
use vincs_vmm::machine::{Machine, MachineConfig, MachineError, Role, Running, StopReason};
use vincs_vmm::topology::Topology;

use crate::cluster::welcome::Welcome;
use crate::run::ending::STATUS_RANK_LOST;
use crate::wireup::channel::{Channel, ChannelError};
use crate::wireup::message::{Settings, ToCoordinator, ToMember};

mod leaving;

use leaving::Stay;

/// Signals that rank 0 takes for all: launchers send them to every rank.
const RANK_0S: [i32; 6] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];

/// How often what this rank has counted is put at hand: what rank 0 is told is as old as this at most.
const COUNT_TIME: Duration = Duration::from_millis(250);

/// How long the machine may take to stop here.
const STOP_TIME: Duration = Duration::from_secs(3);

/// How long rank 0 may be silent after the machine's end. While it writes its output, statistics and last line, it says now and then
/// that it is not done. With the time to stop here it is under [`LOSS_LIMIT`].
pub(crate) const BYE_TIME: Duration = Duration::from_secs(6);

/// Within so much time every rank ends when one hangs.
const LOSS_LIMIT: Duration = Duration::from_secs(10);

const _: () = assert!(STOP_TIME.as_secs() + BYE_TIME.as_secs() < LOSS_LIMIT.as_secs());

/// How long rank 0 may take, from when this rank knows, to say that the machine ends because a rank is lost: to stop, above all. With
/// the time to miss a silent rank it is under 10 s.
const LOSS_TIME: Duration = Duration::from_secs(4);

const _: () = assert!(LOSS_TIME.as_secs() > STOP_TIME.as_secs());

/// The same when rank 0 is the one that is lost: it seldom lives.
const LOSS_OF_RANK_0_TIME: Duration = Duration::from_secs(2);

/// How long rank 0 may take to hear that this rank has failed.
const TELL_TIME: Duration = Duration::from_millis(500);

/// How this rank's part has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
enum End {
    /// Rank 0 has ended the machine.
    Ended,
    /// A rank is lost.
    Lost { rank: u16, reason: String },
    /// This rank could not take part.
    Failed(String),
    /// It has left the machine, which goes on.
    Left,
    /// The machine goes on without it, as the two have lost each other; it had nothing of the machine.
    Dropped,
    /// It was to join, and rank 0 does not want it.
    Refused(String),
}

/// A rank's share of a machine, connected with all others.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) rank: u16,
    pub(crate) kvm: PathBuf,
    pub(crate) settings: Settings,
    /// The names of hosts by rank, as far as they are known here.
    pub(crate) hosts: BTreeMap<u16, String>,
    pub(crate) cluster: Cluster,
    /// Who joins later.
    pub(crate) latecomers: Option<Latecomers>,
}

/// How a rank comes and leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// It joins while the machine runs.
    pub(crate) joins: bool,
    /// INT and TERM let it leave.
    pub(crate) leaves: bool,
    /// How long leaving may take.
    pub(crate) grace: Duration,
}

/// Runs this rank's share of the machine; its exit status, which is rank 0's, or 0 when it has left.
pub(crate) fn run(share: Share, mut zero: Channel, terms: Terms) -> ExitCode {
    let Share { rank, kvm, settings, hosts, cluster, latecomers } = share;
    let roll = cluster.roll.clone();
    let signals = take_signals(terms.leaves).map_err(|error| End::Failed(format!("signals cannot be taken: {error}")));
    let running = signals.and_then(|to_leave| {
        let nodes = u32::from(cluster.ranks);
        let topology = Topology::new(settings.vcpus, nodes).map_err(|error| End::Failed(error.to_string()))?;
        let role = Role::Member(cluster);
        let config = MachineConfig { kvm, topology, memory: settings.memory, relaxed: settings.relaxed, role };
        Ok((start(config)?, to_leave))
    });
    let (end, noticed, takes_part) = match running {
        Ok((running, to_leave)) => {
            let welcome = latecomers.zip(running.greeter()).map(|(late, greeter)| Welcome::start(late, greeter));
            if terms.joins {
                running.ready();
            }
            let mut stay = Stay::new(rank, to_leave, terms);
            let (end, noticed) = (wait(&running, &mut stay, &mut zero), Instant::now());
            drop(welcome);
            stop(running);
            (end, noticed, stay.takes_part())
        }
        Err(end) => (end, Instant::now(), !terms.joins),
    };
    // Rank 0 says it, unless this rank takes no part yet.
    if let End::Failed(cause) = &end {
        let _ = zero.send(&ToCoordinator::Failed(cause.clone()), Instant::now() + TELL_TIME);
    }
    let alone = match &end {
        End::Left => return ExitCode::SUCCESS,
        End::Dropped => Some((STATUS_RANK_LOST, format!("rank {rank} has lost the machine, which goes on without it"))),
        End::Ended | End::Lost { .. } | End::Failed(_) | End::Refused(_) if takes_part => None,
        End::Ended | End::Lost { .. } | End::Failed(_) | End::Refused(_) => {
            leaving::why_not_joined(rank, &end, &mut zero, noticed + LOSS_TIME)
        }
    };
    if let Some((status, line)) = alone {
        crate::say(&line);
        return ExitCode::from(status);
    }
    let limit = if matches!(end, End::Lost { rank: 0, .. }) { LOSS_OF_RANK_0_TIME } else { LOSS_TIME };
    let (status, line) = finish(rank, &hosts, &end, &mut zero, noticed + limit);
    let lost = if let End::Lost { rank, .. } = end { rank } else { 0 };
    if let Some(line) = line.filter(|_| roll.is_lowest(Rank(rank), Rank(lost))) {
        crate::say(&line);
    }
    ExitCode::from(status)
}

fn start(config: MachineConfig) -> Result<Running, End> {
    Machine::new(config).and_then(Machine::start).map_err(|error| {
        if let MachineError::RankLost { rank, reason } = error {
            return End::Lost { rank, reason };
        }
        End::Failed(error.to_string())
    })
}

/// Takes these signals and does nothing: rank 0 does, and this rank ends with it. One that leaves on INT and TERM does so: then what comes
/// back is set.
fn take_signals(leaves: bool) -> std::io::Result<Arc<AtomicBool>> {
    let (noticed, to_leave) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    for signal in RANK_0S {
        let leaves = leaves && [SIGINT, SIGTERM].contains(&signal);
        signal_hook::flag::register(signal, Arc::clone(if leaves { &to_leave } else { &noticed }))?;
    }
    Ok(to_leave)
}

/// Waits for the end. Meanwhile what has been counted is kept at hand for rank 0, which asks for it while the machine still runs.
fn wait(running: &Running, stay: &mut Stay, zero: &mut Channel) -> End {
    let counted: Arc<Mutex<Vec<u8>>> = Arc::default();
    let told = Arc::clone(&counted);
    running.set_statistics(Box::new(move || told.lock().unwrap_or_else(PoisonError::into_inner).clone()));
    loop {
        match running.wait(Some(COUNT_TIME)) {
            Some(StopReason::RankLost { rank, reason }) => return End::Lost { rank, reason },
            Some(StopReason::Ended { .. }) => return End::Ended,
            Some(StopReason::Left) => {
                stay.has_left();
                return End::Left;
            }
            Some(StopReason::Dropped) => return End::Dropped,
            // A virtual processor that fails here is told to rank 0, which ends the machine; the rest is rank 0's alone.
            Some(
                StopReason::PowerOff
                | StopReason::Reset
                | StopReason::TripleFault { .. }
                | StopReason::Failed { .. }
                | StopReason::Stopped,
            )
            | None => {}
        }
        if let Some(end) = stay.look(running, zero) {
            return end;
        }
        let stats = serde_json::to_vec(&running.stats()).unwrap_or_default();
        *counted.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

/// Stops this rank's share; a thread that does not stop in time ends with the process.
fn stop(running: Running) {
    let (sender, stopped) = channel();
    let stop = move || {
        drop(running);
        // Nobody waits any more after the time.
        let _ = sender.send(());
    };
    let started = std::thread::Builder::new().name("stop".into()).spawn(stop);
    if started.is_err() || stopped.recv_timeout(STOP_TIME).is_err() {
        tracing::warn!("the machine does not stop in time: it ends with vincs");
    }
}

/// Waits for rank 0's word, after a loss until `deadline`: the exit status, and what is to be said when there is no rank 0 to say it. A rank 0
/// that is lost may live and have its word, too: one that is dead has closed the channel.
fn finish(
    rank: u16,
    hosts: &BTreeMap<u16, String>,
    end: &End,
    zero: &mut Channel,
    deadline: Instant,
) -> (u8, Option<String>) {
    let status = match end {
        End::Ended => said_goodbye(zero, || Instant::now() + BYE_TIME),
        End::Lost { .. } | End::Failed(_) | End::Left | End::Dropped | End::Refused(_) => {
            said_goodbye(zero, || deadline)
        }
    };
    if let Some(status) = status {
        return (status, None);
    }
    // One that has joined after this rank is not known by its host here.
    let who =
        |rank: u16| hosts.get(&rank).map_or_else(|| format!("rank {rank}"), |host| format!("rank {rank} on {host}"));
    let by = format!("(said by {})", who(rank));
    let lost = |lost: u16, reason: &str| format!("{} is lost: {reason} {by}", who(lost));
    let line = match end {
        End::Ended => lost(0, "the machine has ended, but it does not say how"),
        End::Lost { rank, reason } => lost(*rank, reason),
        End::Failed(cause) => lost(0, &format!("it does not answer; rank {rank} failed: {cause}")),
        End::Left | End::Dropped | End::Refused(_) => return (STATUS_RANK_LOST, None),
    };
    (STATUS_RANK_LOST, Some(line))
}

/// The status with which rank 0 ends; nothing when it is gone, or says nothing until the deadline, which is asked for anew after each
/// of its words.
fn said_goodbye(zero: &mut Channel, deadline: impl Fn() -> Instant) -> Option<u8> {
    loop {
        match zero.receive(deadline()) {
            Ok(ToMember::Bye { status }) => return Some(status),
            Ok(ToMember::Wait | ToMember::Joined) => {}
            Ok(
                ToMember::Refused { .. } | ToMember::Listen(_) | ToMember::Roster(_) | ToMember::Go | ToMember::Seat(_),
            )
            | Err(ChannelError::Frame(_) | ChannelError::Garbage | ChannelError::Silent(_)) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireup::channel::tests::{pair, soon};

    #[test]
    fn rank_0s_status_is_taken_over() {
        let (mut zero, mut member) = pair();
        zero.send(&ToMember::Bye { status: 42 }, soon()).unwrap();
        assert_eq!(said_goodbye(&mut member, soon), Some(42));
        let (mut zero, mut member) = pair();
        zero.send(&ToMember::Go, soon()).unwrap();
        assert_eq!(said_goodbye(&mut member, soon), None, "out of turn");
        drop(zero);
        assert_eq!(said_goodbye(&mut member, soon), None);
        let (_zero, mut member) = pair();
        assert_eq!(said_goodbye(&mut member, shortly), None, "silent");
    }

    #[test]
    fn a_rank_0_that_is_not_done_is_waited_for() {
        let (mut zero, mut member) = pair();
        let busy = std::thread::spawn(move || {
            for _ in 0..8 {
                zero.send(&ToMember::Wait, soon()).unwrap();
                std::thread::sleep(SHORT / 4);
            }
            zero.send(&ToMember::Bye { status: 0 }, soon()).unwrap();
        });
        assert_eq!(said_goodbye(&mut member, shortly), Some(0));
        busy.join().unwrap();
    }

    #[test]
    fn rank_0s_word_comes_before_any_line() {
        let hosts = (0..).zip(["a".to_owned(), "b".to_owned()]).collect();
        let lost = |rank| End::Lost { rank, reason: "no memory".into() };
        for end in [End::Ended, lost(0), lost(2), End::Failed("no KVM".into())] {
            let (mut zero, mut member) = pair();
            zero.send(&ToMember::Bye { status: 125 }, soon()).unwrap();
            assert_eq!(finish(1, &hosts, &end, &mut member, soon()), (125, None), "{end:?}");

            let (zero, mut member) = pair();
            drop(zero);
            let (status, line) = finish(1, &hosts, &end, &mut member, soon());
            assert!(status == 120 && line.is_some(), "{end:?}");
        }
        let (_zero, mut member) = pair();
        let expected = "rank 0 on a is lost: no memory (said by rank 1 on b)".to_owned();
        assert_eq!(finish(1, &hosts, &lost(0), &mut member, shortly()), (120, Some(expected)), "rank 0 is silent");
    }

    /// The time after which silence is no accident.
    const SHORT: Duration = Duration::from_millis(200);

    fn shortly() -> Instant {
        Instant::now() + SHORT
    }
}
