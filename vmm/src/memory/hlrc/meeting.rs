//! How some threads of a machine meet or tell each other of what they have written, in teams that come and go: by messages through rank 0, with what the
//! protocol publishes.
//!
//! The protocol's own barrier is for all threads of all ranks, and no thread that has ended comes again. Guests' programs are not like that. So each
//! rank gathers its own members of a team, publishes once for all of them, and tells the keeper, rank 0; when all have come, the keeper
//! tells each of these ranks the clock that covers what all have written.

use vincs_coherence::hlrc::clock::{Clock, Position};
use vincs_coherence::hlrc::diff::Changed;
use vincs_coherence::hlrc::race::Note;
use vincs_coherence::id::{Page, Rank};

/// The rank that keeps what has been told, and the meetings of all teams.
pub(super) const KEEPER: Rank = Rank(0);

/// Most members of a team: all of a machine's vCPUs, and more.
pub const MAX_MEMBERS: u32 = 384;

/// A team that meets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Meeting {
    /// Its name, the same for all members and no other team's.
    pub team: u64,
    /// Members on all ranks.
    pub members: u32,
    /// Members on this rank.
    pub here: u32,
}

/// One of a team at a meeting. Each brings a word, and gets the words of all in the order of members.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attendance {
    /// Which team.
    pub meeting: Meeting,
    /// Its number in the team, from 0.
    pub member: u32,
    /// Its word.
    pub word: u64,
}

/// Why a team does not meet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MeetingError {
    /// There is no such team.
    #[error(
        "a meeting of {members} members, {here} of them on this rank, which has {threads} threads; a team has up to {MAX_MEMBERS}"
    )]
    Size {
        /// Members on all ranks.
        members: u32,
        /// Members on this rank.
        here: u32,
        /// Threads of this rank.
        threads: usize,
    },
    /// Members do not agree, or there are more than they say.
    #[error("members of team {0} do not agree how many they are")]
    Disagree(u64),
}

/// What ranks say to each other. Answers have the name that the asker gave what it asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Message {
    /// This rank is done.
    Leaves,
    /// To the keeper: these members of a team have come with these words, and publish this.
    Come { team: u64, members: u32, clock: Clock, words: Vec<(u32, u64)> },
    /// All members have come, with these words.
    Go { team: u64, clock: Clock, words: Vec<u64> },
    /// The members do not agree.
    Apart { team: u64 },
    /// To the keeper: this has been published, for whoever asks.
    Tell { name: u64, clock: Clock },
    /// It is known.
    Known { name: u64 },
    /// To the keeper: what has been told?
    Hear { name: u64 },
    /// This.
    Told { name: u64, clock: Clock },
    /// To the keeper: another program begins.
    Begin { name: u64 },
    /// From the keeper: give up all that is of an earlier program.
    Reset,
    /// It is given up, and this is published.
    IsReset { clock: Clock },
    /// All ranks have given it up.
    Begun { name: u64, clock: Clock },
    /// To the keeper, where races are looked for: what this rank has written and seen.
    Note(Note),
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        let none = Clock::from_positions(Vec::new());
        let mut more = Vec::new();
        let (kind, first, second, clock) = match self {
            Self::Leaves => (0, 0, 0, &none),
            Self::Come { team, members, clock, words } => {
                more.extend(words.iter().flat_map(|(member, word)| [u64::from(*member), *word]));
                (1, *team, u64::from(*members), clock)
            }
            Self::Go { team, clock, words } => {
                more.clone_from(words);
                (2, *team, 0, clock)
            }
            Self::Apart { team } => (3, *team, 0, &none),
            Self::Tell { name, clock } => (4, *name, 0, clock),
            Self::Known { name } => (5, *name, 0, &none),
            Self::Hear { name } => (6, *name, 0, &none),
            Self::Told { name, clock } => (7, *name, 0, clock),
            Self::Begin { name } => (8, *name, 0, &none),
            Self::Reset => (9, 0, 0, &none),
            Self::IsReset { clock } => (10, 0, 0, clock),
            Self::Begun { name, clock } => (11, *name, 0, clock),
            Self::Note(Note { clock, pages }) => {
                for (page, runs) in pages {
                    more.push(u64::from(page.0) | (runs.len() as u64) << u32::BITS);
                    more.extend(runs.iter().map(|run| u64::from(run.start) | u64::from(run.end) << u16::BITS));
                }
                (12, pages.len() as u64, 0, clock)
            }
        };
        let words = [kind, first, second].into_iter().chain(clock.positions().map(|position| position.0)).chain(more);
        words.flat_map(u64::to_le_bytes).collect()
    }

    /// What a rank of a machine of so many has sent; nothing if that is none.
    pub(super) fn decode(bytes: &[u8], ranks: usize) -> Option<Self> {
        let (words, rest) = bytes.as_chunks();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let ([kind, first, second], after) = words.split_first_chunk()?;
        let has_clock = matches!(kind, 1 | 2 | 4 | 7 | 10..=12);
        let (positions, more) = after.split_at_checked(if has_clock { ranks } else { 0 })?;
        let fits = positions.iter().all(|position| *position < Position::LIMIT);
        let (pairs, odd) = more.as_chunks::<2>();
        let has_room = match kind {
            1 => odd.is_empty() && pairs.len() <= MAX_MEMBERS as usize,
            2 => more.len() <= MAX_MEMBERS as usize,
            12 => true,
            _ => more.is_empty(),
        };
        if !rest.is_empty() || !fits || !has_room {
            return None;
        }
        let clock = Clock::from_positions(positions.iter().copied().map(Position).collect());
        let (team, name) = (*first, *first);
        Some(match kind {
            0 => Self::Leaves,
            1 => {
                let pair = |[member, word]: &[u64; 2]| Some((u32::try_from(*member).ok()?, *word));
                let words = pairs.iter().map(pair).collect::<Option<_>>()?;
                Self::Come { team, members: u32::try_from(*second).ok()?, clock, words }
            }
            2 => Self::Go { team, clock, words: more.to_vec() },
            3 => Self::Apart { team },
            4 => Self::Tell { name, clock },
            5 => Self::Known { name },
            6 => Self::Hear { name },
            7 => Self::Told { name, clock },
            8 => Self::Begin { name },
            9 => Self::Reset,
            10 => Self::IsReset { clock },
            11 => Self::Begun { name, clock },
            12 => Self::Note(Note { clock, pages: noted(*first, more)? }),
            _ => return None,
        })
    }
}

/// So many pages with what was changed of each, and nothing after that.
fn noted(count: u64, words: &[u64]) -> Option<Vec<(Page, Vec<Changed>)>> {
    let mut rest = words.iter();
    let mut pages = Vec::new();
    while let Some(word) = rest.next() {
        let page = Page(u32::try_from(word & u64::from(u32::MAX)).ok()?);
        let run = |word: &u64| {
            let start = u16::try_from(word & u64::from(u16::MAX)).ok()?;
            Some(Changed { start, end: u16::try_from(word >> u16::BITS).ok()? })
        };
        let runs = usize::try_from(word >> u32::BITS).ok().filter(|runs| *runs <= rest.len())?;
        pages.push((page, rest.by_ref().take(runs).map(run).collect::<Option<_>>()?));
    }
    (pages.len() as u64 == count).then_some(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written_and_no_others() {
        let clock = Clock::from_positions(vec![Position(7), Position(Position::LIMIT - 1)]);
        let (team, name) = (u64::MAX, 3);
        let run = |start, end| Changed { start, end };
        let all = [
            Message::Leaves,
            Message::Come { team, members: u32::MAX, clock: clock.clone(), words: vec![(5, u64::MAX), (0, 1)] },
            Message::Go { team, clock: clock.clone(), words: vec![7; MAX_MEMBERS as usize] },
            Message::Apart { team },
            Message::Tell { name, clock: clock.clone() },
            Message::Known { name },
            Message::Hear { name },
            Message::Told { name, clock: clock.clone() },
            Message::Begin { name },
            Message::Reset,
            Message::IsReset { clock: clock.clone() },
            Message::Begun { name, clock: clock.clone() },
            Message::Note(Note {
                clock,
                pages: vec![(Page(u32::MAX), vec![run(0, 4096)]), (Page(2), vec![run(1, 2), run(9, 65535)])],
            }),
        ];
        for (kind, message) in all.into_iter().enumerate() {
            let bytes = message.encode();
            assert_eq!(bytes[0] as usize, kind);
            assert_eq!(Message::decode(&bytes, 2), Some(message.clone()));
            assert_eq!(Message::decode(&bytes[..bytes.len() - 1], 2), None, "{message:?} cut");
            assert_eq!(Message::decode(&[&bytes[..], &[0; 8]].concat(), 2), None, "{message:?} with more");
            if bytes.len() > 24 {
                let beyond = [&bytes[..32], &Position::LIMIT.to_le_bytes(), &bytes[40..]].concat();
                assert_eq!(Message::decode(&beyond, 2), None, "{message:?} beyond all positions");
            }
            if bytes.len() == 40 {
                assert_eq!(Message::decode(&bytes, 3), None, "{message:?} of another machine");
            }
        }
        assert_eq!(Message::decode(&[], 2), None);
        assert_eq!(Message::decode(&[13; 24], 2), None);
        let beyond = [12, 1, 0, 0, 0, 7 | 2 << 32, 1 << 16].map(u64::to_le_bytes).concat();
        assert_eq!(Message::decode(&beyond, 2), None, "more ranges than there are words");
    }
}
