//! The devices of simulated ranks: they ask for pages, use them and release them.

use crate::id::Rank;
use crate::node::HoldId;

use super::super::checkers::{Checker, Violation};
use super::super::guest::perform;
use super::{Checked, Event, Input, JobState, Machine};

impl Machine<'_> {
    /// Something that a device does is due.
    pub(super) fn device(&mut self, rank: Rank, event: &Event) -> Checked {
        let scenario = self.scenario;
        match *event {
            Event::Hold { job } => {
                let Some(device) = scenario.devices.get(job) else { return Ok(()) };
                self.jobs[job] = JobState::Asked;
                if device.gives_up {
                    self.schedule(self.now + device.keeps, Event::GiveUp { job });
                }
                let limit = self.now + scenario.answer_within() + 2 * device.keeps;
                self.schedule(limit, Event::HoldOver { job });
                self.input(rank, &Input::Hold(job))
            }
            Event::GiveUp { job } if self.jobs[job] == JobState::Asked => {
                self.jobs[job] = JobState::Over;
                self.input(rank, &Input::Release(job))
            }
            Event::Use { job, touch } => {
                let Some(device) = scenario.devices.get(job) else { return Ok(()) };
                let Some(access) = device.touches.get(touch) else {
                    self.jobs[job] = JobState::Over;
                    self.pins.released(rank, hold_id(job));
                    return self.input(rank, &Input::Release(job));
                };
                let Some(performed) = perform(*access, &mut self.site(rank).memory) else {
                    let what = format!("hold {job} of rank {} does not permit {access:?}", rank.0);
                    return Err(Violation::of_page(Checker::Pins, access.page, what));
                };
                self.performed(rank, job, &[performed])?;
                let step = device.keeps / (device.touches.len() as u64 + 1);
                let at = self.now + self.rng.below(2 * step + 1);
                self.schedule(at, Event::Use { job, touch: touch + 1 });
                Ok(())
            }
            Event::HoldOver { job } if self.jobs[job] == JobState::Asked && !self.crashed() => {
                Err(Violation::of_rank(Checker::Progress, rank, format!("hold {job} never gets its pages")))
            }
            Event::GiveUp { .. }
            | Event::HoldOver { .. }
            | Event::Arrival { .. }
            | Event::Step { .. }
            | Event::Fault { .. }
            | Event::Answered { .. }
            | Event::Timer { .. }
            | Event::Sleep { .. }
            | Event::Nic { .. }
            | Event::Brought { .. }
            | Event::HandOver { .. }
            | Event::Crash { .. }
            | Event::Relocate { .. }
            | Event::Leave { .. }
            | Event::GiveUpPages { .. } => Ok(()),
        }
    }

    /// A node says that a device has its pages.
    pub(super) fn hold_ready(&mut self, rank: Rank, id: HoldId) -> Checked {
        let job = usize::try_from(id.0).unwrap_or(usize::MAX);
        let Some(device) = self.scenario.devices.get(job).filter(|_| self.jobs[job] == JobState::Asked) else {
            return Err(Violation::of_rank(Checker::Pins, rank, format!("hold {} is ready, but not wanted", id.0)));
        };
        self.jobs[job] = JobState::Has;
        self.pins.ready(rank, id, &device.runs);
        for (run, _) in &device.runs {
            for page in run.pages() {
                self.pins.check(&self.sites, page)?;
            }
        }
        let at = self.now + self.moment(rank);
        self.schedule(at, Event::Use { job, touch: 0 });
        Ok(())
    }
}

/// The hold of a device's job.
pub(super) fn hold_id(job: usize) -> HoldId {
    HoldId(job as u64)
}
