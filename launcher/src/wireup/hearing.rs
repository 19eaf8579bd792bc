//! Rank 0 hears all ranks at once: what each answers, and whether one hangs or goes meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::wireup::STEP_TIME;
use crate::wireup::channel::{self, ChannelError};
use crate::wireup::coordinator::Member;
use crate::wireup::difference::who;
use crate::wireup::mesh::MeshFault;
use crate::wireup::message::ToCoordinator;
use crate::wireup::signs::{MESSAGE_TIME, SIGN_OF_LIFE, SILENCE, Silence};

/// How long somebody who is not connected with another rank waits for that one's own word, which has the cause.
const BLAME_TIME: Duration = Duration::from_secs(1);

/// What the ranks have said so far.
#[derive(Debug, Default)]
struct Heard {
    /// By rank.
    answers: BTreeMap<u32, ToCoordinator>,
    /// Who does not get to another rank, and until when that one may say why.
    missed: Option<(String, Instant)>,
}

/// One answer of each rank, in the order of ranks. `own` tells what keeps rank 0 itself from going on, if something does.
///
/// # Errors
/// The line that names the first rank that fails, hangs or goes, and why. A rank's own word goes before what others notice of it.
pub(crate) fn answers(
    members: &mut BTreeMap<u32, Member>,
    own: impl Fn() -> Option<MeshFault>,
) -> Result<Vec<ToCoordinator>, String> {
    let start = Instant::now();
    let mut silences: Vec<Silence> = members.iter().map(|_| Silence::broken(start)).collect();
    let mut heard = Heard::default();
    while heard.answers.len() < members.len() {
        match own() {
            Some(MeshFault::Own(line)) => return Err(line),
            Some(MeshFault::Peer(line)) => heard.misses(line),
            None => {}
        }
        heard.check(start, members)?;
        let until = heard.missed.as_ref().map(|(_, until)| until.saturating_duration_since(Instant::now()));
        let time = until.map_or(SIGN_OF_LIFE, |left| left.min(SIGN_OF_LIFE));
        let said = channel::wait_for(members.values().map(|member| &member.channel), time);
        for ((member, silence), said) in members.values_mut().zip(&mut silences).zip(said) {
            if said {
                heard.take(member)?;
                *silence = Silence::broken(Instant::now());
            } else if silence.is_too_long(Instant::now()) {
                return Err(left(member, &ChannelError::Silent(SILENCE)));
            }
        }
    }
    Ok(heard.answers.into_values().collect())
}

impl Heard {
    fn misses(&mut self, line: String) {
        self.missed.get_or_insert_with(|| (line, Instant::now() + BLAME_TIME));
    }

    /// Whether there is time left: for a rank that is missed to say why, and for all to answer.
    fn check(&self, start: Instant, members: &BTreeMap<u32, Member>) -> Result<(), String> {
        if let Some((line, until)) = &self.missed
            && Instant::now() >= *until
        {
            return Err(line.clone());
        }
        if start.elapsed() < STEP_TIME {
            return Ok(());
        }
        let missing = members.iter().find(|(rank, _)| !self.answers.contains_key(rank));
        let line = |(_, member): (_, &Member)| {
            format!("{} does not get on with the wire-up: {} s", who(&member.introduction), STEP_TIME.as_secs())
        };
        missing.map_or(Ok(()), |missing| Err(line(missing)))
    }

    /// Takes a message of a rank.
    fn take(&mut self, member: &mut Member) -> Result<(), String> {
        let message = member.channel.receive(Instant::now() + MESSAGE_TIME).map_err(|error| left(member, &error))?;
        let who = || who(&member.introduction);
        match message {
            ToCoordinator::Wait => {}
            ToCoordinator::Failed(cause) => return Err(format!("{}: {cause}", who())),
            ToCoordinator::Missed(cause) => self.misses(format!("{} {cause}", who())),
            answer @ (ToCoordinator::Listening(_) | ToCoordinator::Connected) => {
                if self.answers.insert(member.introduction.rank, answer).is_some() {
                    return Err(out_of_turn(member));
                }
            }
        }
        Ok(())
    }
}

/// A rank that goes before it should.
pub(crate) fn left(member: &Member, error: &ChannelError) -> String {
    format!("{} left the wire-up: {error}", who(&member.introduction))
}

pub(crate) fn out_of_turn(member: &Member) -> String {
    format!("{} speaks out of turn: use the same vincs everywhere", who(&member.introduction))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireup::channel::Channel;
    use crate::wireup::channel::tests::{pair, soon};
    use crate::wireup::message::{Hello, Introduction, VERSION};
    use crate::wireup::signs::Signs;

    /// Ranks 1 and on, and their ends of the channels.
    fn ranks<const N: usize>() -> (BTreeMap<u32, Member>, [Channel; N]) {
        let mut members = BTreeMap::new();
        let mut rank = 0;
        let ends = [(); N].map(|()| {
            rank += 1;
            let (channel, end) = pair();
            let host = format!("n{rank}");
            let introduction = Introduction { version: VERSION, rank, ranks: 9, host, vincs: "0".into() };
            members.insert(rank, Member { introduction, hello: Hello::default(), channel });
            end
        });
        (members, ends)
    }

    fn line(members: &mut BTreeMap<u32, Member>) -> String {
        answers(members, || None).unwrap_err()
    }

    #[test]
    fn answers_come_in_the_order_of_ranks_whatever_order_they_are_given_in() {
        let (mut members, [mut one, mut two]) = ranks();
        let listening = ToCoordinator::Listening("127.0.0.1:1".parse().unwrap());
        two.send(&ToCoordinator::Wait, soon()).unwrap();
        two.send(&ToCoordinator::Connected, soon()).unwrap();
        two.send(&ToCoordinator::Wait, soon()).unwrap();
        one.send(&listening, soon()).unwrap();
        assert_eq!(answers(&mut members, || None).unwrap(), [listening, ToCoordinator::Connected]);
    }

    #[test]
    fn a_rank_that_fails_goes_or_answers_twice_is_named_at_once() {
        let (mut members, [_one, mut two]) = ranks();
        two.send(&ToCoordinator::Failed("no memory".into()), soon()).unwrap();
        assert_eq!(line(&mut members), "rank 2 on n2: no memory");
        let (mut members, [one, _two]) = ranks();
        drop(one);
        assert!(line(&mut members).starts_with("rank 1 on n1 left the wire-up: "));
        let (mut members, [mut one, _two]) = ranks();
        one.send(&ToCoordinator::Connected, soon()).unwrap();
        one.send(&ToCoordinator::Connected, soon()).unwrap();
        assert!(line(&mut members).starts_with("rank 1 on n1 speaks out of turn"));
    }

    #[test]
    fn a_silent_rank_is_named_though_others_are_slow() {
        let (mut members, [one, _two]) = ranks();
        let _signs = Signs::show(vec![one.sender().unwrap()], ToCoordinator::Wait).unwrap();
        let start = Instant::now();
        assert!(line(&mut members).starts_with("rank 2 on n2 left the wire-up: it has been silent for 5 s"));
        assert!(start.elapsed() >= SILENCE);
    }

    #[test]
    fn a_ranks_own_word_goes_before_what_others_notice_of_it() {
        let (mut members, [mut one, mut two]) = ranks();
        one.send(&ToCoordinator::Missed("misses rank 2".into()), soon()).unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(BLAME_TIME / 2);
            two.send(&ToCoordinator::Failed("no memory".into()), soon()).unwrap();
            two
        });
        assert_eq!(line(&mut members), "rank 2 on n2: no memory");
        late.join().unwrap();
        let (mut members, [mut one, _two]) = ranks();
        one.send(&ToCoordinator::Missed("misses rank 2".into()), soon()).unwrap();
        assert_eq!(line(&mut members), "rank 1 on n1 misses rank 2", "it says nothing");
    }

    #[test]
    fn what_fails_on_rank_0_is_known_while_it_listens() {
        let (mut members, [_one]) = ranks::<1>();
        let own = || Some(MeshFault::Own("no memory here".into()));
        assert_eq!(answers(&mut members, own).unwrap_err(), "no memory here");
        let start = Instant::now();
        let peer = || Some(MeshFault::Peer("misses rank 1".into()));
        assert_eq!(answers(&mut members, peer).unwrap_err(), "misses rank 1");
        assert!(start.elapsed() >= BLAME_TIME);
    }
}
