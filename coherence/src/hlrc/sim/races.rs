//! The observer of a simulated machine in which races are looked for: notes reach it late, those of one rank in order. Programs have races that were planted,
//! or none: each planted one has to be reported, and nothing else.

use std::collections::VecDeque;

use crate::hlrc::clock::{Clock, Position};
use crate::hlrc::diff::Changed;
use crate::hlrc::race::{Checker, Note, Race};
use crate::home::HomeMap;
use crate::id::{Page, Rank};

use super::checks::{Check, Violation};
use super::memory::CELLS;
use super::program::{Planted, Variable};

/// Takes notes.
#[derive(Debug)]
pub struct Observer {
    homes: HomeMap,
    checker: Checker,
    /// On their way, by rank, in order.
    notes: Vec<VecDeque<Note>>,
    /// The last clock that each rank has noted.
    noted: Vec<Clock>,
    /// What a bug holds back, by rank.
    held: Vec<Option<Note>>,
    mutant: Option<&'static NoteMutant>,
    planted: Vec<Planted>,
    /// Which of them have been reported.
    reported: Vec<bool>,
}

impl Observer {
    /// One for a machine whose programs have these races.
    #[must_use]
    pub fn new(ranks: u16, homes: &HomeMap, planted: &[Planted], mutant: Option<&'static NoteMutant>) -> Self {
        Self {
            homes: homes.clone(),
            checker: Checker::new(ranks),
            notes: vec![VecDeque::new(); ranks.into()],
            noted: vec![Clock::new(ranks); ranks.into()],
            held: vec![None; ranks.into()],
            mutant,
            reported: vec![false; planted.len()],
            planted: planted.to_vec(),
        }
    }

    /// A rank has brought pages home with this clock, or its clock goes on: how many notes are under way for that.
    pub fn write_down(&mut self, rank: Rank, clock: &Clock, pages: Vec<(Page, Vec<Changed>)>) -> usize {
        let index = usize::from(rank.0);
        let (Some(noted), Some(notes)) = (self.noted.get_mut(index), self.notes.get_mut(index)) else { return 0 };
        if pages.is_empty() && noted == clock {
            return 0;
        }
        noted.clone_from(clock);
        let note = Note { clock: clock.clone(), pages };
        let new = match (self.mutant, self.held.get_mut(index)) {
            (Some(mutant), Some(held)) => (mutant.change)(&self.homes, rank, note, held),
            _ => vec![note],
        };
        let count = new.len();
        notes.extend(new);
        count
    }

    /// The next note of a rank is there.
    ///
    /// # Errors
    /// It makes no sense, or shows a race that is none.
    pub fn hear(&mut self, rank: Rank) -> Result<(), Violation> {
        let note = self.notes.get_mut(usize::from(rank.0)).and_then(VecDeque::pop_front);
        let Some(note) = note else { return Ok(()) };
        if !note.makes_sense(self.notes.len(), self.homes.pages()) {
            return Err(Violation::new(Check::Races, format!("rank {} notes {note:?}", rank.0)));
        }
        for race in self.checker.handle_note(rank, note) {
            for byte in [race.first].iter().chain(&race.more).flat_map(|run| run.range()) {
                let fits = self.planted.iter().position(|planted| is_of(planted, &race, byte));
                match fits.and_then(|index| self.reported.get_mut(index)) {
                    Some(reported) => *reported = true,
                    None => return Err(Violation::new(Check::Races, format!("{race:?} is none"))),
                }
            }
        }
        Ok(())
    }

    /// Nothing comes any more.
    ///
    /// # Errors
    /// A planted race was not reported.
    pub fn check_end(&self) -> Result<(), Violation> {
        let missed = self.planted.iter().zip(&self.reported).find(|(_, reported)| !**reported);
        match missed {
            Some((planted, _)) => Err(Violation::new(Check::Races, format!("{planted:?} was not reported"))),
            None => Ok(()),
        }
    }
}

/// Whether a byte of a race is of one that was planted: within the variable, by two of the ranks.
fn is_of(planted: &Planted, race: &Race, byte: usize) -> bool {
    let Variable { page, at, len } = planted.variable;
    let within = race.page == page && (at..at + len).contains(&byte);
    within && race.ranks[0] != race.ranks[1] && race.ranks.iter().all(|rank| planted.ranks.contains(rank))
}

/// What a bug makes of a note of a rank; what it holds back is there at the next one.
type Change = fn(&HomeMap, Rank, Note, &mut Option<Note>) -> Vec<Note>;

/// A bug in what ranks note or in how notes are compared.
#[derive(Debug)]
pub struct NoteMutant {
    /// What is wrong.
    pub name: &'static str,
    /// The notes that there are instead of one.
    change: Change,
    /// Whether races are reported that are none; else some are missed.
    pub invents: bool,
}

/// All of them.
pub static NOTE_MUTANTS: &[NoteMutant] = &[
    NoteMutant {
        name: "an interval of which a rank has seen only the beginning is taken for an earlier one",
        change: |_, rank, note, _| vec![with_positions(note, |other, at| if other == rank { at } else { at + 1 })],
        invents: false,
    },
    NoteMutant {
        name: "an interval is taken to have begun before it has",
        change: |_, rank, note, _| {
            vec![with_positions(note, |other, at| if other == rank { at.saturating_sub(1) } else { at })]
        },
        invents: false,
    },
    NoteMutant {
        name: "an interval is taken to have begun later than it has",
        change: |_, rank, note, _| vec![with_positions(note, |other, at| if other == rank { at + 1 } else { at })],
        invents: true,
    },
    NoteMutant {
        name: "a rank's clock is noted without what it has seen of others",
        change: |_, rank, note, _| vec![with_positions(note, |other, at| if other == rank { at } else { 0 })],
        invents: true,
    },
    NoteMutant {
        name: "what was written before a rank has seen more is noted with what it saw then",
        change: |_, rank, note, held| {
            let own = held.as_ref().map(|earlier| earlier.clock.of(rank));
            let seen = with_positions(note.clone(), |other, at| own.filter(|_| other == rank).map_or(at, |own| own.0));
            let earlier = held.take().map(|earlier| Note { clock: seen.clock, ..earlier });
            if note.pages.is_empty() {
                earlier.into_iter().chain([note]).collect()
            } else {
                *held = Some(note);
                earlier.into_iter().collect()
            }
        },
        invents: false,
    },
    NoteMutant {
        name: "the whole page is taken for changed",
        change: |_, _, note, _| {
            let whole = Changed { start: 0, end: u16::try_from(CELLS).unwrap_or(u16::MAX) };
            let pages = note.pages.into_iter().map(|(page, _)| (page, vec![whole])).collect();
            vec![Note { pages, ..note }]
        },
        invents: true,
    },
    NoteMutant {
        name: "a range of changed bytes is taken for one longer",
        change: |_, _, note, _| {
            let longer = |run: &Changed| Changed { end: run.end + 1, ..*run };
            let pages = note.pages.into_iter().map(|(page, runs)| (page, joined(runs.iter().map(longer)))).collect();
            vec![Note { pages, ..note }]
        },
        invents: true,
    },
    NoteMutant {
        name: "only the first range of a page is noted",
        change: |_, _, note, _| {
            let pages = note.pages.into_iter().map(|(page, runs)| (page, runs.into_iter().take(1).collect())).collect();
            vec![Note { pages, ..note }]
        },
        invents: false,
    },
    NoteMutant {
        name: "pages homed at the rank that writes them are not noted",
        change: |homes, rank, note, _| {
            let pages = note.pages.into_iter().filter(|(page, _)| homes.home(*page) != Some(rank)).collect();
            vec![Note { pages, ..note }]
        },
        invents: false,
    },
    NoteMutant {
        name: "all is forgotten that anybody has seen",
        change: |_, _, note, _| {
            let all = with_positions(Note { pages: Vec::new(), ..note.clone() }, |_, _| Position::LIMIT - 1);
            vec![note, all]
        },
        invents: false,
    },
];

fn with_positions(note: Note, change: impl Fn(Rank, u64) -> u64) -> Note {
    let positions = (0..).map(Rank).zip(note.clock.positions());
    let clock = positions.map(|(rank, position)| Position(change(rank, position.0))).collect();
    Note { clock: Clock::from_positions(clock), ..note }
}

/// Ranges, of which some may touch.
fn joined(runs: impl Iterator<Item = Changed>) -> Vec<Changed> {
    let mut joined: Vec<Changed> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.end >= run.start => last.end = run.end,
            _ => joined.push(run),
        }
    }
    joined
}
