//! Looking for races: this rank's notes, and the keeper's checker.

use vincs_coherence::hlrc::clock::Clock;
use vincs_coherence::hlrc::diff::Changed;
use vincs_coherence::hlrc::race::{Checker, Note};
use vincs_coherence::id::{Page, Rank};

use super::Service;
use crate::memory::hlrc::meeting::{KEEPER, Message};
use crate::memory::hlrc::races::{Place, RaceReport, RaceSink};

/// Most words of a message with notes: 64 KiB, and a page's.
const NOTE_WORDS: usize = 8192;

/// What a rank has for it.
#[derive(Debug)]
pub(super) struct Races {
    /// The last clock that was noted.
    noted: Clock,
    /// The keeper's.
    checker: Option<(Checker, RaceSink)>,
    /// It has told what was found in the end.
    ended: bool,
}

impl Races {
    pub(super) fn new(rank: Rank, ranks: usize, sink: RaceSink) -> Self {
        let ranks = u16::try_from(ranks).unwrap_or(u16::MAX);
        let checker = (rank == KEEPER).then(|| (Checker::new(ranks), sink));
        Self { noted: Clock::new(ranks), checker, ended: false }
    }
}

impl Service {
    /// Notes what this rank has written, with what it has seen so far.
    pub(super) fn note_changes(&mut self, pages: Vec<(Page, Vec<Changed>)>) {
        let Some(races) = &mut self.races else { return };
        let clock = self.node.clock().clone();
        races.noted.clone_from(&clock);
        let (mut notes, mut some, mut words) = (Vec::new(), Vec::new(), 0);
        for (page, runs) in pages.into_iter().filter(|(_, runs)| !runs.is_empty()) {
            words += 1 + runs.len();
            some.push((page, runs));
            if words >= NOTE_WORDS {
                words = 0;
                notes.push(std::mem::take(&mut some));
            }
        }
        if !some.is_empty() {
            notes.push(some);
        }
        for pages in notes {
            self.send(KEEPER, Message::Note(Note { clock: clock.clone(), pages }));
        }
    }

    /// Notes that this rank has seen more, if it has: what it writes from now on comes after that.
    pub(super) fn note_clock(&mut self) {
        let Some(races) = &mut self.races else { return };
        if races.noted != *self.node.clock() {
            races.noted.clone_from(self.node.clock());
            let note = Note { clock: races.noted.clone(), pages: Vec::new() };
            self.send(KEEPER, Message::Note(note));
        }
    }

    /// To the keeper a rank has noted something.
    pub(super) fn hear_note(&mut self, from: Rank, note: Note) {
        let pages = self.node.layout().pages_of_all();
        let Some(Races { checker: Some((checker, sink)), .. }) = &mut self.races else {
            return self.lose(from, "it looks for races, and this rank does not".to_owned());
        };
        if !note.makes_sense(self.settings.team.len(), pages) {
            return self.lose(from, "it has sent what makes no sense".to_owned());
        }
        for race in checker.handle_note(from, note) {
            let place = self
                .places
                .place(race.page)
                .map(|place| Place { offset: place.offset + u64::from(race.first.start), ..place });
            sink.tell(RaceReport::Race { race, place });
        }
    }

    /// All ranks are done, or this one is: tells what was found, once.
    pub(super) fn end_races(&mut self) {
        if let Some(Races { checker: Some((checker, sink)), ended, .. }) = &mut self.races
            && !std::mem::replace(ended, true)
        {
            sink.tell(RaceReport::End(checker.found()));
        }
    }
}
