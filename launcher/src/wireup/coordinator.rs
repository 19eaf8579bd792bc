//! Rank 0's side of the wire-up: gathers the ranks, compares them, tells them where the others are.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::wireup::channel::Channel;
use crate::wireup::difference::{self, who};
use crate::wireup::door::{Visitor, show_out};
use crate::wireup::mesh::{Listening, Mesh};
use crate::wireup::message::{Hello, Introduction, Roster, Settings, ToCoordinator, ToMember};
use crate::wireup::placement::{self, Arrival};
use crate::wireup::{Keys, Machine, Own, Refusal, STEP_TIME};

/// How long rank 0 waits for ranks to come that it has to tell that there will be no machine: those that come later find nobody.
const REFUSAL_TIME: Duration = Duration::from_secs(3);

/// How long a refused rank may take to hear of it.
const TELL_TIME: Duration = Duration::from_secs(1);

/// A rank that has come.
#[derive(Debug)]
struct Member {
    introduction: Introduction,
    hello: Hello,
    channel: Channel,
}

/// The ranks that have come, by rank, and why there will be no machine, if there will be none.
#[derive(Debug, Default)]
struct Gathering {
    members: BTreeMap<u32, Member>,
    refused: Vec<Channel>,
    verdict: Option<String>,
}

/// Gathers all ranks and connects them. `decide` says from the hellos, rank 0's first, what the machine is.
///
/// # Errors
/// [`Refusal`]: every rank that has come has been told.
pub(crate) fn coordinate(
    visitors: &Receiver<Visitor>,
    own: &Own,
    keys: &Keys,
    timeout: Duration,
    decide: impl FnOnce(&[&Hello]) -> Result<Settings, String>,
) -> Result<Machine, Refusal> {
    let mut gathering = gather(visitors, own, timeout);
    if gathering.verdict.is_none() {
        let hellos: Vec<&Hello> =
            std::iter::once(&own.hello).chain(gathering.members.values().map(|member| &member.hello)).collect();
        match decide(&hellos) {
            Ok(settings) => match connect(&mut gathering, own, keys, settings) {
                Ok((mesh, roster)) => {
                    let channels = gathering.members.into_values().map(|member| member.channel).collect();
                    return Ok(Machine { mesh, roster, channels, published: None });
                }
                Err(line) => gathering.verdict = Some(line),
            },
            Err(line) => gathering.verdict = Some(line),
        }
    }
    let line = gathering.verdict.unwrap_or_default();
    let channels = gathering.members.into_values().map(|member| member.channel).chain(gathering.refused);
    for mut channel in channels {
        let refused = ToMember::Refused { line: line.clone(), said: true };
        // A rank that is gone needs no word.
        let _ = channel.send(&refused, Instant::now() + TELL_TIME);
    }
    Err(Refusal { line, said: false })
}

/// Waits until all ranks are there, or the time is over, or it is clear that there will be no machine and nobody comes any more.
fn gather(visitors: &Receiver<Visitor>, own: &Own, timeout: Duration) -> Gathering {
    let zero = &own.introduction;
    let mut gathering = Gathering { verdict: own.hello.problem.clone(), ..Gathering::default() };
    let mut deadline = Instant::now() + if gathering.verdict.is_some() { REFUSAL_TIME } else { timeout };
    loop {
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
                let missing = (1..zero.ranks).filter(|rank| !gathering.members.contains_key(rank));
                let line = missing_line(missing, zero, timeout);
                gathering.verdict.get_or_insert(line);
                return gathering;
            }
        }
    }
}

fn missing_line(missing: impl Iterator<Item = u32>, zero: &Introduction, timeout: Duration) -> String {
    let missing: Vec<String> = missing.map(|rank| rank.to_string()).collect();
    let (word, ranks) = (if missing.len() == 1 { "rank" } else { "ranks" }, missing.join(", "));
    let Introduction { ranks: all, host, .. } = zero;
    let seconds = timeout.as_secs();
    format!(
        "{word} {ranks} of {all} did not come to rank 0 on {host} within {seconds} s: see that all are started and reach \
         that host, by --net-if if it has several networks; --wireup-timeout gives more time"
    )
}

/// Looks at one that knows the machine's secret. One who comes in a rank's place that is taken, or that there is none of, is sent
/// away and changes nothing.
fn admit(gathering: &mut Gathering, own: &Own, visitor: Visitor) {
    let zero = &own.introduction;
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

/// Has every rank listen, tells all where, and connects with all.
fn connect(gathering: &mut Gathering, own: &Own, keys: &Keys, settings: Settings) -> Result<(Mesh, Roster), String> {
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
    let places = placement::addresses(own.hello.net_if, &arrivals);
    let (zero, others) = places.split_first().ok_or("there is no rank 0")?;
    let listening = Listening::bind(*zero).map_err(|error| format!("{}: {error}", who(&own.introduction)))?;
    for (member, place) in gathering.members.values_mut().zip(others) {
        tell(member, &ToMember::Listen(*place))?;
    }
    let mut addresses = vec![listening.address()];
    for member in gathering.members.values_mut() {
        match hear(member)? {
            ToCoordinator::Listening(address) => addresses.push(address),
            ToCoordinator::Connected | ToCoordinator::Failed(_) => return Err(out_of_turn(member)),
        }
    }
    let members = || gathering.members.values();
    let hosts = std::iter::once(&own.introduction).chain(members().map(|member| &member.introduction));
    let boots = std::iter::once(&own.hello).chain(members().map(|member| &member.hello));
    let roster = Roster {
        addresses,
        hosts: hosts.map(|introduction| introduction.host.clone()).collect(),
        boots: boots.map(|hello| hello.boot_id.clone()).collect(),
        settings,
    };
    for member in gathering.members.values_mut() {
        tell(member, &ToMember::Roster(Box::new(roster.clone())))?;
    }
    let mesh = listening.connect(0, &roster, keys);
    // A rank may know better why another did not come.
    for member in gathering.members.values_mut() {
        match hear(member)? {
            ToCoordinator::Connected => {}
            ToCoordinator::Listening(_) | ToCoordinator::Failed(_) => return Err(out_of_turn(member)),
        }
    }
    let mesh = mesh.map_err(|cause| format!("{} cannot connect: {cause}", who(&own.introduction)))?;
    for member in gathering.members.values_mut() {
        tell(member, &ToMember::Go)?;
    }
    Ok((mesh, roster))
}

fn tell(member: &mut Member, message: &ToMember) -> Result<(), String> {
    let sent = member.channel.send(message, Instant::now() + STEP_TIME);
    sent.map_err(|error| format!("{} left the wire-up: {error}", who(&member.introduction)))
}

/// What a rank says, unless it says that it failed.
fn hear(member: &mut Member) -> Result<ToCoordinator, String> {
    match member.channel.receive(Instant::now() + STEP_TIME) {
        Ok(ToCoordinator::Failed(cause)) => Err(format!("{}: {cause}", who(&member.introduction))),
        Ok(said @ (ToCoordinator::Listening(_) | ToCoordinator::Connected)) => Ok(said),
        Err(error) => Err(format!("{} left the wire-up: {error}", who(&member.introduction))),
    }
}

fn out_of_turn(member: &Member) -> String {
    format!("{} speaks out of turn: use the same vincs everywhere", who(&member.introduction))
}
