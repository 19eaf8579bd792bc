//! A rank other than 0 once all are connected: its share of the machine runs until rank 0 ends it, or a rank is lost.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use vincs_vmm::machine::{Machine, MachineConfig, Role, Running, StopReason};
use vincs_vmm::topology::Topology;

use crate::cluster::others;
use crate::run::ending::{STATUS_OWN_FAILURE, STATUS_RANK_LOST};
use crate::wireup;
use crate::wireup::channel::{Channel, ChannelError};
use crate::wireup::message::{ToCoordinator, ToMember};

/// Signals that rank 0 takes for all: launchers send them to every rank.
const RANK_0S: [i32; 6] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];

/// How often what this rank has counted is put at hand: what rank 0 is told is as old as this at most.
const COUNT_TIME: Duration = Duration::from_millis(250);

/// How long the machine may take to stop here.
const STOP_TIME: Duration = Duration::from_secs(3);

/// How long rank 0 may take to write its statistics and its last line after the machine's end.
const BYE_TIME: Duration = Duration::from_secs(10);

/// How long rank 0 may take to say that the machine ends because of another rank.
const LOSS_TIME: Duration = Duration::from_secs(3);

/// How long rank 0 may take to hear that this rank has failed.
const TELL_TIME: Duration = Duration::from_millis(500);

/// How this rank's part has ended.
#[derive(Clone, Debug, Eq, PartialEq)]
enum End {
    /// Rank 0 has ended the machine.
    Ended,
    /// A rank is lost.
    Lost { rank: u16, reason: String },
}

/// Runs this rank's share of the machine; its exit status, which is rank 0's.
pub(crate) fn run(rank: u16, kvm: PathBuf, machine: wireup::Machine) -> ExitCode {
    let wireup::Machine { mesh, roster, mut channels, published: _ } = machine;
    let Some(mut zero) = channels.pop() else { return ExitCode::from(STATUS_OWN_FAILURE) };
    let running = others::cluster(rank, &roster, mesh)
        .ok_or_else(|| "there is no channel to the other ranks".to_owned())
        .and_then(|cluster| {
            ignore_signals().map_err(|error| format!("signals cannot be taken: {error}"))?;
            let nodes = u32::from(cluster.ranks);
            let topology = Topology::new(roster.settings.vcpus, nodes).map_err(|error| error.to_string())?;
            let role = Role::Member(cluster);
            let config = MachineConfig { kvm, topology, memory: roster.settings.memory, role };
            start(config)
        });
    match running {
        Ok(running) => {
            let end = wait(&running);
            stop(running);
            finish(rank, &roster.hosts, &end, &mut zero)
        }
        Err(cause) => {
            // Rank 0 says it; without rank 0 there is nobody to wait for.
            let _ = zero.send(&ToCoordinator::Failed(cause), Instant::now() + TELL_TIME);
            ExitCode::from(said_goodbye(&mut zero, LOSS_TIME).unwrap_or(STATUS_RANK_LOST))
        }
    }
}

fn start(config: MachineConfig) -> Result<Running, String> {
    let running = Machine::new(config).and_then(Machine::start).map_err(|error| error.to_string())?;
    Ok(running)
}

/// Takes these signals and does nothing: rank 0 does, and this rank ends with it.
fn ignore_signals() -> std::io::Result<()> {
    let noticed = Arc::new(AtomicBool::new(false));
    for signal in RANK_0S {
        signal_hook::flag::register(signal, Arc::clone(&noticed))?;
    }
    Ok(())
}

/// Waits for the end. Meanwhile what has been counted is kept at hand for rank 0, which asks for it while the machine still runs.
fn wait(running: &Running) -> End {
    let counted: Arc<Mutex<Vec<u8>>> = Arc::default();
    let told = Arc::clone(&counted);
    running.set_statistics(Box::new(move || told.lock().unwrap_or_else(PoisonError::into_inner).clone()));
    loop {
        match running.wait(Some(COUNT_TIME)) {
            Some(StopReason::RankLost { rank, reason }) => return End::Lost { rank, reason },
            Some(StopReason::Ended { .. }) => return End::Ended,
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

/// Waits for rank 0's word, and says what has happened when there is no rank 0 to say it.
fn finish(rank: u16, hosts: &[String], end: &End, zero: &mut Channel) -> ExitCode {
    let (lost, reason) = match end {
        End::Ended => return ExitCode::from(said_goodbye(zero, BYE_TIME).unwrap_or(STATUS_RANK_LOST)),
        End::Lost { rank, reason } => (*rank, reason),
    };
    if lost != 0
        && let Some(status) = said_goodbye(zero, LOSS_TIME)
    {
        return ExitCode::from(status);
    }
    if is_lowest(rank, &[0, lost]) {
        let host = |rank: u16| hosts.get(usize::from(rank)).map_or("", String::as_str);
        crate::say(&format!("rank {lost} on {} is lost: {reason} (said by rank {rank} on {})", host(lost), host(rank)));
    }
    ExitCode::from(STATUS_RANK_LOST)
}

/// Whether a rank is the lowest that is left when these are lost: it speaks for all.
fn is_lowest(rank: u16, lost: &[u16]) -> bool {
    (0..rank).all(|lower| lost.contains(&lower))
}

/// The status with which rank 0 ends; nothing when it does not say so in time.
fn said_goodbye(zero: &mut Channel, limit: Duration) -> Option<u8> {
    match zero.receive(Instant::now() + limit) {
        Ok(ToMember::Bye { status }) => Some(status),
        Ok(ToMember::Refused { .. } | ToMember::Listen(_) | ToMember::Roster(_) | ToMember::Go) => None,
        Err(ChannelError::Frame(_) | ChannelError::Garbage) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireup::channel::tests::{pair, soon};

    #[test]
    fn the_lowest_rank_that_is_left_speaks() {
        assert!(is_lowest(1, &[0, 0]) && is_lowest(1, &[0, 5]) && is_lowest(2, &[0, 1]));
        assert!(!is_lowest(2, &[0, 0]) && !is_lowest(3, &[0, 1]) && !is_lowest(2, &[0, 3]));
    }

    #[test]
    fn rank_0s_status_is_taken_over() {
        let (mut zero, mut member) = pair();
        zero.send(&ToMember::Bye { status: 42 }, soon()).unwrap();
        assert_eq!(said_goodbye(&mut member, STOP_TIME), Some(42));
        let (mut zero, mut member) = pair();
        zero.send(&ToMember::Go, soon()).unwrap();
        assert_eq!(said_goodbye(&mut member, STOP_TIME), None, "out of turn");
        drop(zero);
        assert_eq!(said_goodbye(&mut member, STOP_TIME), None);
        let (_zero, mut member) = pair();
        assert_eq!(said_goodbye(&mut member, Duration::from_millis(20)), None, "silent");
    }
}
