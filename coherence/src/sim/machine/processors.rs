//! The processors of the simulated machine: their steps, sleep and meetings.

use super::super::checkers::progress;
use super::super::guest::{Stepped, Waiting};
use super::{Checked, Event, Input, Machine};
use crate::id::Rank;

impl Machine<'_> {
    /// A processor takes a step; `goes_on` says whether another follows by itself.
    pub(super) fn step(&mut self, vcpu: usize, goes_on: bool) -> Checked {
        self.go_if_it_can(vcpu)?;
        let rank = self.home_of(vcpu);
        let memory = &mut self.sites[usize::from(rank.0)].memory;
        let stepped = self.vcpus[vcpu].step(memory, &mut self.rng);
        self.vcpus[vcpu].asleep = matches!(stepped, Stepped::Paused(_) | Stepped::Meets | Stepped::Finished);
        if self.vcpus[vcpu].asleep {
            let at = self.now + self.moment(rank);
            self.schedule(at, Event::Sleep { rank });
        }
        match stepped {
            Stepped::Done(performed) => {
                self.performed(rank, vcpu, &performed)?;
                self.step_later(vcpu, goes_on, 0);
            }
            Stepped::Paused(time) => self.step_later(vcpu, goes_on, time),
            Stepped::Meets => {
                // A step that was on its way is not meant for what comes after the meeting.
                self.vcpus[vcpu].token += 1;
                self.meet();
            }
            Stepped::Finished => {}
            Stepped::Faulted(page, access) => {
                let waiting = Waiting { page, access, told: false };
                let processor = &mut self.vcpus[vcpu];
                processor.waiting = Some(waiting);
                processor.token += 1;
                processor.retries += 1;
                let (token, retries) = (processor.token, processor.retries);
                if let Err(violation) = progress::check_retries(rank, vcpu, page, retries) {
                    // Ranks that wait for a page of a lost one are patient without end, and all others with them.
                    return if self.crashed() { Ok(()) } else { Err(violation) };
                }
                self.trace.note(self.now, || format!("rank {} vcpu {vcpu} faults: {waiting:?}", rank.0));
                self.timing.faults(vcpu, rank, page, access, self.now);
                let told = self.now + self.timing.costs().map_or_else(|| self.moment(rank), |costs| costs.fault);
                self.schedule(told, Event::Fault { vcpu, token, waiting });
                let limit = self.now + self.scenario.answer_within();
                self.schedule(limit, Event::Answered { vcpu, token, waiting });
            }
        }
        Ok(())
    }

    /// Tells a rank's nodes whether its processors sleep, if it is not what they were told last.
    pub(super) fn look_who_sleeps(&mut self, rank: Rank) -> Checked {
        let vcpus = self.places.iter().zip(&self.vcpus);
        let asleep = vcpus.filter(|(place, _)| **place == rank).all(|(_, vcpu)| vcpu.asleep);
        if std::mem::replace(&mut self.host(rank).asleep, asleep) == asleep {
            return Ok(());
        }
        self.input(rank, &Input::Sleep(asleep))
    }

    pub(super) fn step_later(&mut self, vcpu: usize, goes_on: bool, more: u64) {
        if goes_on {
            let at = self.now + more + self.moment(self.home_of(vcpu));
            let token = self.vcpus[vcpu].token;
            self.schedule(at, Event::Step { vcpu, token });
        }
    }

    /// Once all processors are at a meeting, all go on.
    pub(super) fn meet(&mut self) {
        if self.vcpus.iter().all(|vcpu| vcpu.met) {
            for vcpu in 0..self.vcpus.len() {
                self.vcpus[vcpu].met = false;
                self.vcpus[vcpu].token += 1;
                self.step_later(vcpu, true, 0);
            }
        }
    }
}
