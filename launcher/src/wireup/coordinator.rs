//! Rank 0's side of the wire-up: gathers the ranks, compares them, tells them where the others are.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::wireup::channel::{Channel, Sender};
use crate::wireup::difference::{self, who};
use crate::wireup::door::{Visitor, show_out};
use crate::wireup::hearing::{answers, left, out_of_turn};
use crate::wireup::mesh::{Connecting, Listening, Mesh};
use crate::wireup::message::{Hello, Introduction, Roster, Settings, ToCoordinator, ToMember};
use crate::wireup::placement::{self, Arrival};
use crate::wireup::signs::Signs;
use crate::wireup::{Keys, Machine, Own, Refusal, STEP_TIME};

/// How long rank 0 waits for ranks to come that it has to tell that there will be no machine: those that come later find nobody.
const REFUSAL_TIME: Duration = Duration::from_secs(3);

/// How long a refused rank may take to hear of it.
const TELL_TIME: Duration = Duration::from_secs(1);

/// A rank that has come.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) introduction: Introduction,
    pub(crate) hello: Hello,
    pub(crate) channel: Channel,
}

/// A rank that is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Present<'a> {
    pub(crate) introduction: &'a Introduction,
    pub(crate) hello: &'a Hello,
    /// The address at which it is to listen for the others.
    pub(crate) place: IpAddr,
}

/// The ranks that have come, by rank, and why there will be no machine, if there will be none.
#[derive(Debug, Default)]
struct Gathering {
    members: BTreeMap<u32, Member>,
    refused: Vec<Channel>,
    /// Those that have come and gone again, by rank.
    left: BTreeMap<u32, Introduction>,
    verdict: Option<String>,
}

impl Gathering {
    /// Takes out the ranks that have gone again: they may come again, started anew.
    fn look_round(&mut self) {
        for (rank, member) in self.members.extract_if(.., |_, member| member.channel.is_gone()) {
            self.left.insert(rank, member.introduction);
        }
    }
}

/// Gathers all ranks and connects them. `decide` says from all that is present, rank 0 first, what the machine is; `say` tells the user.
///
/// # Errors
/// [`Refusal`]: the user and every rank that has come have been told.
pub(crate) fn coordinate(
    visitors: &Receiver<Visitor>,
    own: &Own,
    keys: &Keys,
    timeout: Duration,
    (say, decide): (impl Fn(&str), impl FnOnce(&[Present<'_>]) -> Result<Settings, String>),
) -> Result<Machine, Refusal> {
    let mut gathering = gather(visitors, own, timeout);
    if gathering.verdict.is_none() {
        match assemble(&mut gathering, own, keys, decide) {
            Ok((mesh, roster)) => {
                let channels = gathering.members.into_values().map(|member| member.channel).collect();
                return Ok(Machine { mesh, roster, channels, doorstep: None, visitors: None });
            }
            Err(line) => gathering.verdict = Some(line),
        }
    }
    let line = gathering.verdict.unwrap_or_default();
    // First: what started the ranks may end them all when the first of them ends, as each does once it has been told.
    say(&line);
    let channels = gathering.members.into_values().map(|member| member.channel).chain(gathering.refused);
    for mut channel in channels {
        let refused = ToMember::Refused { line: line.clone(), said: true };
        // A rank that is gone needs no word.
        let _ = channel.send(&refused, Instant::now() + TELL_TIME);
    }
    Err(Refusal { line, said: true })
}

/// Waits until all ranks are there, or the time is over, or it is clear that there will be no machine and nobody comes any more.
fn gather(visitors: &Receiver<Visitor>, own: &Own, timeout: Duration) -> Gathering {
    let zero = &own.introduction;
    let verdict = own.hello.problem.as_ref().map(|problem| format!("{}: {problem}", who(zero)));
    let mut gathering = Gathering { verdict, ..Gathering::default() };
    let mut deadline = Instant::now() + if gathering.verdict.is_some() { REFUSAL_TIME } else { timeout };
    loop {
        gathering.look_round();
        let come = gathering.members.len() + gathering.refused.len() + 1;
        if come >= usize::try_from(zero.ranks).unwrap_or(usize::MAX) {
            return gathering;
        }
        match visitors.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(visitor) => {
                let was_clear = gathering.verdict.is_some();
                admit(&mut gathering, own, visitor);
                if gathering.verdict.is_some() && !was_clear {
                    deadline = Instant::now() + REFUSAL_TIME;
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                gathering.look_round();
                let line = missing_line(&gathering, zero, timeout);
                gathering.verdict.get_or_insert(line);
                return gathering;
            }
        }
    }
}

/// Who is not there: those that have come and gone again are named with their hosts.
fn missing_line(gathering: &Gathering, zero: &Introduction, timeout: Duration) -> String {
    let Introduction { ranks: all, host, .. } = zero;
    let seconds = timeout.as_secs();
    let is_there = |rank: &u32| gathering.members.contains_key(rank);
    let left: Vec<String> =
        gathering.left.iter().filter(|(rank, _)| !is_there(rank)).map(|(_, gone)| who(gone)).collect();
    let is_missing = |rank: &u32| !is_there(rank) && !gathering.left.contains_key(rank);
    let missing: Vec<String> = (1..*all).filter(is_missing).map(|rank| rank.to_string()).collect();
    let gone = format!("{} came to rank 0 on {host} and left again, of {all} ranks", left.join(", "));
    let (word, ranks) = (if missing.len() == 1 { "rank" } else { "ranks" }, missing.join(", "));
    let absent = format!(
        "{word} {ranks} of {all} did not come to rank 0 on {host} within {seconds} s: see that all are started and reach \
         that host, by --net-if if it has several networks; --wireup-timeout gives more time"
    );
    match (left.is_empty(), missing.is_empty()) {
        (true, _) => absent,
        (false, true) => gone,
        (false, false) => format!("{gone}; {absent}"),
    }
}

/// Looks at one that knows the machine's secret. One who comes in a rank's place that is taken, or that there is none of, is sent
/// away and changes nothing.
fn admit(gathering: &mut Gathering, own: &Own, visitor: Visitor) {
    let zero = &own.introduction;
    if visitor.introduction.joins() {
        return show_out(visitor, "the machine does not run yet: join it when it does".to_owned());
    }
    let rank = visitor.introduction.rank;
    let difference = difference::of_introductions(zero, &visitor.introduction);
    if difference.is_none() {
        if rank == 0 || rank >= zero.ranks {
            return show_out(visitor, format!("rank 0 on {} has ranks 1 to {} only", zero.host, zero.ranks - 1));
        }
        if let Some(present) = gathering.members.get(&rank) {
            let line = format!("rank 0 on {} has its {} already", zero.host, who(&present.introduction));
            return show_out(visitor, line);
        }
    }
    let Visitor { introduction, hello, channel } = visitor;
    let hello = hello.unwrap_or_default();
    let difference = difference.or_else(|| difference::of_hellos(&own.hello, &introduction, &hello));
    match difference {
        Some(line) => {
            gathering.verdict.get_or_insert(line);
            gathering.refused.push(channel);
        }
        None => drop(gathering.members.insert(rank, Member { introduction, hello, channel })),
    }
}

/// Decides what the machine is, and connects its ranks.
fn assemble(
    gathering: &mut Gathering,
    own: &Own,
    keys: &Keys,
    decide: impl FnOnce(&[Present<'_>]) -> Result<Settings, String>,
) -> Result<(Mesh, Roster), String> {
    let places = places(gathering, own)?;
    let members = gathering.members.values().map(|member| (&member.introduction, &member.hello));
    let all = std::iter::once((&own.introduction, &own.hello)).chain(members).zip(&places);
    let present = all.map(|((introduction, hello), place)| Present { introduction, hello, place: *place });
    let settings = decide(&present.collect::<Vec<_>>())?;
    connect(gathering, own, keys, settings, &places)
}

/// At which address each rank is to listen, rank 0 first.
fn places(gathering: &Gathering, own: &Own) -> Result<Vec<IpAddr>, String> {
    let arrival = |member: &Member| -> Result<Arrival, String> {
        let to = member.channel.local().ok_or_else(|| format!("{} is gone", who(&member.introduction)))?;
        Ok(Arrival {
            net_if: member.hello.net_if,
            from: member.channel.peer().ip(),
            to: to.ip().to_canonical(),
            same_host: member.hello.boot_id == own.hello.boot_id,
        })
    };
    let arrivals = gathering.members.values().map(arrival).collect::<Result<Vec<_>, _>>()?;
    Ok(placement::addresses(own.hello.net_if, &arrivals))
}

/// Has every rank listen at its place, tells all where the others do, and connects with all.
fn connect(
    gathering: &mut Gathering,
    own: &Own,
    keys: &Keys,
    settings: Settings,
    places: &[IpAddr],
) -> Result<(Mesh, Roster), String> {
    let (zero, others) = places.split_first().ok_or("there is no rank 0")?;
    let listening = Listening::bind(*zero).map_err(|error| format!("{}: {error}", who(&own.introduction)))?;
    for (member, place) in gathering.members.values_mut().zip(others) {
        tell(member, &ToMember::Listen(*place))?;
    }
    let failed = |error: io::Error| format!("{}: {error}", who(&own.introduction));
    let senders = gathering.members.values().map(|member| member.channel.sender());
    let senders = senders.collect::<io::Result<Vec<Sender>>>().map_err(failed)?;
    // From here on the ranks know each other to be alive by that.
    let signs = Signs::show(senders, ToMember::Wait).map_err(failed)?;
    let mut addresses = vec![listening.address()];
    for (answer, member) in answers(&mut gathering.members, || None)?.into_iter().zip(gathering.members.values()) {
        match answer {
            ToCoordinator::Listening(address) => addresses.push(address),
            ToCoordinator::Connected | ToCoordinator::Failed(_) | ToCoordinator::Missed(_) | ToCoordinator::Wait => {
                return Err(out_of_turn(member));
            }
        }
    }
    let members = || gathering.members.values();
    let hosts = std::iter::once(&own.introduction).chain(members().map(|member| &member.introduction));
    let boots = std::iter::once(&own.hello).chain(members().map(|member| &member.hello));
    let roster = Roster {
        addresses,
        hosts: hosts.map(|introduction| introduction.host.clone()).collect(),
        boots: boots.clone().map(|hello| hello.boot_id.clone()).collect(),
        processors: boots.clone().map(|hello| hello.processors).collect(),
        busy: boots.clone().map(|hello| hello.busy).collect(),
        memory: boots.map(|hello| hello.memory).collect(),
        settings,
    };
    for member in gathering.members.values_mut() {
        tell(member, &ToMember::Roster(Box::new(roster.clone())))?;
    }
    let connecting = Connecting::start(listening, 0, &roster, keys, |_| {}).map_err(failed)?;
    let own_fault = || connecting.fault().map(|fault| fault.said_of(&who(&own.introduction)));
    for (answer, member) in answers(&mut gathering.members, own_fault)?.into_iter().zip(gathering.members.values()) {
        if answer != ToCoordinator::Connected {
            return Err(out_of_turn(member));
        }
    }
    // All others are connected, with this rank too.
    let mesh = connecting.mesh(STEP_TIME).map_err(|fault| fault.said_of(&who(&own.introduction)).into_line())?;
    drop(signs);
    for member in gathering.members.values_mut() {
        tell(member, &ToMember::Go)?;
    }
    Ok((mesh, roster))
}

fn tell(member: &mut Member, message: &ToMember) -> Result<(), String> {
    let sent = member.channel.send(message, Instant::now() + STEP_TIME);
    sent.map_err(|error| left(member, &error))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::mpsc::channel;

    use vincs_transport_tcp::secret::{MachineId, Secret};

    use super::*;
    use crate::wireup::channel::tests::{pair, soon};
    use crate::wireup::message::VERSION;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(100);

    fn introduction(rank: u32, ranks: u32) -> Introduction {
        Introduction { version: VERSION, rank, ranks, host: format!("n{rank}"), vincs: "0".into() }
    }

    fn own(ranks: u32) -> Own {
        Own { introduction: introduction(0, ranks), hello: Hello::default() }
    }

    /// A rank at the door, and its end of the connection.
    fn visitor(rank: u32, ranks: u32) -> (Visitor, Channel) {
        let (channel, end) = pair();
        (Visitor { introduction: introduction(rank, ranks), hello: Some(Hello::default()), channel }, end)
    }

    #[test]
    fn a_rank_that_has_left_is_named() {
        let (sender, visitors) = channel();
        let ((one, gone), (two, _end)) = (visitor(1, 4), visitor(2, 4));
        drop(gone);
        sender.send(one).unwrap();
        sender.send(two).unwrap();
        let line = gather(&visitors, &own(4), SHORT).verdict.unwrap();
        assert!(
            line.starts_with("rank 1 on n1 came to rank 0 on n0 and left again, of 4 ranks; rank 3 of 4"),
            "{line}"
        );
    }

    #[test]
    fn a_rank_that_has_left_may_come_again() {
        let (sender, visitors) = channel();
        let ((first, gone), (second, _end)) = (visitor(1, 2), visitor(1, 2));
        drop(gone);
        sender.send(first).unwrap();
        sender.send(second).unwrap();
        let gathering = gather(&visitors, &own(2), LONG);
        assert_eq!((gathering.verdict, gathering.members.len()), (None, 1));
        assert!(!gathering.members[&1].channel.is_gone());
    }

    #[test]
    fn the_user_is_told_before_the_ranks() {
        let (sender, visitors) = channel();
        let (one, end) = visitor(1, 2);
        sender.send(one).unwrap();
        let (end, said_first) = (RefCell::new(end), Cell::new(false));
        let say = |line: &str| {
            let told = end.borrow_mut().receive::<ToMember>(Instant::now() + SHORT).is_ok();
            said_first.set(line == "no" && !told);
        };
        let keys = Keys { machine: MachineId::random().unwrap(), secret: Secret::random().unwrap() };
        let refusal =
            coordinate(&visitors, &own(2), &keys, LONG, (say, |_: &[Present<'_>]| Err("no".into()))).unwrap_err();
        assert!(said_first.get());
        assert_eq!(refusal, Refusal { line: "no".into(), said: true });
        let told = end.borrow_mut().receive::<ToMember>(soon()).unwrap();
        assert_eq!(told, ToMember::Refused { line: "no".into(), said: true });
    }
}
