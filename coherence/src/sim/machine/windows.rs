//! Windows of simulated ranks: what homes do in theirs, and what the NICs of others read there.

use crate::id::{Page, Rank, RankSet, Version};

use super::super::checkers::{Checker, Violation};
use super::super::memory::Words;
use super::super::scenario::LONGEST_STEP;
use super::super::window::{GuardedRead, HomeStep, HomeWork, NicStep};
use super::{Checked, Event, Input, Machine};

/// Before each step of a home at its window, NICs take another step all but one time in so many.
const NIC_RESTS_ONE_IN: u64 = 3;

/// One in so many steps of a NIC comes after a pause.
const PAUSE_ONE_IN: u64 = 4;

impl Machine<'_> {
    /// A home shows a page with these bytes.
    pub(super) fn shows(&mut self, home: Rank, page: Page, version: Version, words: Words) -> Checked {
        self.versions.shown(page, version)?;
        let steps = self.home_steps(home, HomeStep::to_show());
        let work = HomeWork { page, shows: Some((version, words)), steps: steps.into(), marks: RankSet::EMPTY };
        self.work_at_window(home, work).map(drop)
    }

    /// A home hides a page: what marks it has found it is told after this.
    pub(super) fn hides(&mut self, home: Rank, page: Page) -> Checked {
        let steps = self.home_steps(home, HomeStep::to_hide(home, self.scenario.ranks));
        let work = HomeWork { page, shows: None, steps: steps.into(), marks: RankSet::EMPTY };
        let marks = self.work_at_window(home, work)?;
        self.host(home).collected.push(Input::Collected(page, marks));
        Ok(())
    }

    fn home_steps(&mut self, home: Rank, steps: Vec<HomeStep>) -> Vec<HomeStep> {
        match self.planted.as_mut().filter(|planted| planted.rank == home) {
            Some(planted) => planted.mutation.home_steps(steps),
            None => steps,
        }
    }

    /// Takes all steps, between which NICs go on; gives the marks that were found.
    fn work_at_window(&mut self, home: Rank, mut work: HomeWork) -> Checked<RankSet> {
        loop {
            self.nics_between(home);
            let site = self.site(home);
            let slot = site.slot_number(work.page);
            if !work.step(site.window_of(work.page), slot) {
                return Ok(work.marks);
            }
            self.trace.note(self.now, || format!("rank {} at slot {slot}: {work:?}", home.0));
        }
    }

    /// A rank begins to read in another's window.
    pub(super) fn reads(&mut self, reader: Rank, home: Rank, page: Page) -> Checked {
        if home == reader || self.site(reader).node_of(page).home(page) != Some(home) {
            let what = format!("reads page {} in the window of rank {}", page.0, home.0);
            return Err(Violation::of_rank(Checker::Memory, reader, what));
        }
        let mut steps = NicStep::guarded_read();
        // A NIC fetches bytes in any order.
        if let Some((_, fetched)) = steps.split_first_mut() {
            self.rng.shuffle(fetched);
        }
        if let Some(planted) = self.planted.as_mut().filter(|planted| planted.rank == reader) {
            steps = planted.mutation.nic_steps(steps);
        }
        self.begun += 1;
        let id = self.begun;
        self.reads.insert(id, GuardedRead::new(reader, home, page, steps));
        let at = self.network.delay(&mut self.rng, self.now, reader, home);
        self.schedule(at, Event::Nic { reader, id });
        Ok(())
    }

    /// The NIC of a reader goes on.
    pub(super) fn nic(&mut self, reader: Rank, id: u64) {
        if self.nic_step(id) {
            let longest = if self.rng.one_in(PAUSE_ONE_IN) { self.scenario.nic_pause } else { LONGEST_STEP };
            let at = self.now + self.rng.below(longest + 1);
            self.schedule(at, Event::Nic { reader, id });
        }
    }

    /// A step of a read; false when there is none left. The end of the last one is told to the reader some time later.
    fn nic_step(&mut self, id: u64) -> bool {
        let Some(read) = self.reads.get_mut(&id) else { return false };
        let (home, reader) = (read.home, read.reader);
        // A home that is gone answers nothing any more.
        if self.hosts[usize::from(home.0)].dead {
            return false;
        }
        let site = &mut self.sites[usize::from(home.0)];
        let slot = site.slot_number(read.page);
        if !read.step(site.window_of(read.page), slot) {
            return false;
        }
        self.trace.note(self.now, || format!("NIC of rank {}: {read:?}", reader.0));
        if !read.steps.is_empty() {
            return true;
        }
        let at = self.network.delay(&mut self.rng, self.now, home, reader);
        self.schedule(at, Event::Brought { reader, id });
        false
    }

    /// NICs do not stop while a home works at its window.
    fn nics_between(&mut self, home: Rank) {
        while !self.rng.one_in(NIC_RESTS_ONE_IN) {
            let here = self.reads.iter().filter(|(_, read)| read.home == home && !read.steps.is_empty());
            let ids: Vec<u64> = here.map(|(id, _)| *id).collect();
            let Some(id) = self.rng.pick(&ids) else { return };
            self.nic_step(id);
        }
    }

    /// A reader is told what its read has brought.
    pub(super) fn brought(&mut self, reader: Rank, id: u64) -> Checked {
        let Some(read) = self.reads.remove(&id) else { return Ok(()) };
        self.input(reader, &Input::Brought(read.page, read.seen(), read.words))
    }
}
