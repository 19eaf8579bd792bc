//! The other ranks' side of the control channel.

use std::fmt;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vincs_coherence::id::{Rank, RankSet};
use vincs_coherence::node::HomesError;

use super::super::clock::{ClockStats, DRIFT_PROBES, Measured, Measurement, Next, START_PROBES};
use super::super::forward::{DEVICE_RANK, Forwarder};
use super::super::homes;
use super::super::message::{ClockReading, Control, MAX_STATISTICS};
use super::super::roll::Roll;
use super::pause::WhenDropped;
use super::{Basis, Breach, ClusterEvent, ControlNotes, Core, Note, Suspect};
use crate::clock::host_ticks;
use crate::memory::engine::{Leaver, Mover};

/// How often drift of the clock is measured.
const DRIFT_STEP: Duration = Duration::from_secs(1);

/// How long after one rank misses rank 0 all others do: each looks twice a second who is silent.
const SPREAD_TIME: Duration = Duration::from_secs(1);

type Tell = Box<dyn Fn() -> Vec<u8> + Send>;

/// Tells what this rank has counted, as bytes for whoever asks rank 0; nothing before it is set.
#[derive(Clone, Default)]
pub(crate) struct StatisticsSource(Arc<Mutex<Option<Tell>>>);

impl StatisticsSource {
    /// From now on this tells it.
    pub(crate) fn set(&self, source: Tell) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    fn tell(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|source| source()).unwrap_or_default()
    }
}

impl fmt::Debug for StatisticsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StatisticsSource").finish_non_exhaustive()
    }
}

/// What a rank other than 0 works with.
pub(crate) struct Member {
    forwarder: Arc<Forwarder>,
    statistics: StatisticsSource,
    /// Until the first measurement, which decides whether the counter is rank 0's own.
    boot_id: Option<[u8; 16]>,
    measurement: Option<Measurement>,
    /// Where the first measurement goes.
    first_measured: Option<Sender<Measured>>,
    /// What the guest's counter is this host's plus, and at which rate, once that is settled; shared with who settles it.
    applied: Arc<Mutex<AppliedClock>>,
    next_drift: Option<Instant>,
    ended: bool,
    closed: bool,
    /// Rank 0 is lost or does not answer: by then all others know, too.
    known_at: Option<Instant>,
    roll: Roll,
    leaver: Leaver,
    mover: Mover,
    /// To itself, from the threads of memory.
    notes: ControlNotes,
    leaving: Option<Leaving>,
    /// It has started the machine, or rank 0 has said that it takes part.
    takes_part: bool,
}

/// This rank is about to leave: no vCPU is here any more.
struct Leaving {
    /// Who has not said yet that all has arrived that this rank sent.
    missing: RankSet,
    /// All pages of others are given up.
    pages_given_up: bool,
    /// Rank 0 has been told that all is done.
    told: bool,
}

/// The clock as it was set, and how well it goes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AppliedClock {
    /// What the guest's counter is this host's plus.
    pub(crate) offset: u64,
    /// Its rate in kHz.
    pub(crate) khz: u32,
    /// How well it goes.
    pub(crate) stats: ClockStats,
}

impl Member {
    /// `first_measured` gets what the first measurement of the clock gives; `applied` is what was made of it; `roll` learns who is there without rank 0.
    pub(crate) fn new(
        forwarder: Arc<Forwarder>,
        statistics: StatisticsSource,
        boot_id: Option<[u8; 16]>,
        first_measured: Sender<Measured>,
        applied: Arc<Mutex<AppliedClock>>,
        roll: Roll,
        (leaver, mover, notes): (Leaver, Mover, ControlNotes),
    ) -> Self {
        Self {
            forwarder,
            statistics,
            boot_id,
            measurement: None,
            first_measured: Some(first_measured),
            applied,
            next_drift: None,
            ended: false,
            closed: false,
            known_at: None,
            roll,
            leaver,
            mover,
            notes,
            leaving: None,
            takes_part: true,
        }
    }

    /// The same for a rank that joins: it takes part once rank 0 says so.
    pub(crate) fn joining(self) -> Self {
        Self { takes_part: false, ..self }
    }

    /// Asks rank 0 for its clock.
    pub(super) fn begin(&mut self, core: &mut Core) {
        self.measure(core, START_PROBES);
    }

    fn measure(&mut self, core: &Core, probes: u32) {
        let number = self.measurement.as_ref().map_or(0, |last| last.number().wrapping_add(1));
        self.measurement = Some(Measurement::start(self.boot_id.take(), number, probes, host_ticks()));
        core.link.send(DEVICE_RANK, &Control::ClockProbe { number }, &[]);
    }

    pub(super) fn handle(
        &mut self,
        core: &mut Core,
        from: Rank,
        message: Control,
        body: Vec<u8>,
    ) -> Result<(), Breach> {
        match message {
            Control::Vcpu { vcpu } => {
                return core.arrives(from, vcpu, &body, |core| {
                    core.link.send(DEVICE_RANK, &Control::Arrived { vcpu }, &[]);
                });
            }
            Control::Present if from != DEVICE_RANK => {
                self.answer_roll(core);
                self.roll.enter(from);
                return Ok(());
            }
            Control::Parted => {
                if let Some(leaving) = &mut self.leaving {
                    leaving.missing.remove(from);
                }
                self.tell_if_drained(core);
                return Ok(());
            }
            _ if from != DEVICE_RANK => {}
            Control::Homes { vital } if !self.takes_part => return self.take_homes(core, &vital, &body),
            Control::ToLeave => {
                self.leaver.announce();
                return Ok(());
            }
            Control::ToStay { reason } => {
                self.leaver.refuse(reason);
                return Ok(());
            }
            Control::Come { rank, ranks, places } => {
                self.comes(core, rank, &ranks, &places);
                return Ok(());
            }
            Control::Gone { rank } => {
                self.goes(core, rank);
                return Ok(());
            }
            Control::Drain if self.leaving.is_none() => {
                self.drain(core);
                return Ok(());
            }
            Control::Answer { vcpu } => return Ok(self.forwarder.answer(vcpu, body)?),
            Control::Move { vcpu, from, to } => return core.ordered(vcpu, from, to),
            Control::Pause { number } => {
                let link = Arc::clone(&core.link);
                let tell = move || link.send(DEVICE_RANK, &Control::Paused { number }, &[]);
                core.residents.pause(&Arc::new(WhenDropped(tell)));
                return Ok(());
            }
            Control::Resume => {
                core.residents.resume();
                return Ok(());
            }
            Control::ClockAnswer { number, reading } => return self.clock_answer(core, number, reading),
            Control::Lost { rank, reason } => {
                core.finish(ClusterEvent::Lost(rank, reason));
                return Ok(());
            }
            Control::StatisticsRequest => {
                self.tell_statistics(core);
                return Ok(());
            }
            Control::End { status } => {
                self.ended = true;
                core.finish(ClusterEvent::Ended(status));
                core.link.send(DEVICE_RANK, &Control::EndSeen, &[]);
                return Ok(());
            }
            Control::Closed if self.ended => {
                self.closed = true;
                return Ok(());
            }
            Control::Interrupt { .. }
            | Control::Repointed { .. }
            | Control::Arrived { .. }
            | Control::Paused { .. }
            | Control::EndOfInterrupt { .. }
            | Control::Notify { .. }
            | Control::Access { .. }
            | Control::ClockProbe { .. }
            | Control::VcpuFailed { .. }
            | Control::Statistics
            | Control::EndSeen
            | Control::Closed
            | Control::Present
            | Control::Met { .. }
            | Control::Ready
            | Control::Leave
            | Control::Homes { .. }
            | Control::HomesKnown
            | Control::Drain
            | Control::Parting
            | Control::Drained => {}
        }
        Err(Breach(format!("{message:?} to rank {}", core.link.rank().0)))
    }

    /// A rank takes part from now on, perhaps this one.
    fn comes(&mut self, core: &mut Core, rank: Rank, ranks: &[Rank], places: &[Rank]) {
        if rank != core.link.rank() {
            return core.admit(rank);
        }
        self.takes_part = true;
        // Those that are not there have left: none of them has the word when rank 0 is lost.
        (1..rank.0).map(Rank).filter(|other| !ranks.contains(other)).for_each(|left| self.roll.leave(left));
        core.comes(ranks, places);
    }

    /// A rank takes no part any more, perhaps this one.
    fn goes(&mut self, core: &mut Core, rank: Rank) {
        if rank == core.link.rank() {
            core.finish(if self.leaving.is_some() { ClusterEvent::Left } else { ClusterEvent::Dropped });
            return;
        }
        core.dismiss(rank);
        self.roll.leave(rank);
        if let Some(leaving) = &mut self.leaving {
            leaving.missing.remove(rank);
        }
        self.tell_if_drained(core);
    }

    /// A rank is lost. Rank 0 tells all which was the first; without rank 0 the machine is over at once.
    pub(super) fn lost(&mut self, core: &mut Core, rank: Rank, reason: String) {
        if rank == DEVICE_RANK {
            if !core.over || self.ended && !self.closed {
                self.go_on_alone(core);
            }
            self.closed = true;
            let known = core.suspect.take().map(|suspect| ClusterEvent::Lost(suspect.rank, suspect.reason));
            core.finish(known.unwrap_or(ClusterEvent::Lost(rank, reason)));
        } else if !core.over && !self.takes_part {
            self.give_up_joining(core, rank, reason);
        } else if !core.over && core.link.has(rank) {
            Self::tell_loss(core, rank, reason);
        }
    }

    /// This rank has lost one before it took part. One that is there it needs: it does not join. Of others it does not know whether they have just left: rank 0 does, and takes
    /// this one's seat away if not.
    fn give_up_joining(&self, core: &mut Core, rank: Rank, reason: String) {
        core.link.send(DEVICE_RANK, &Control::lost(rank, &reason), &[]);
        if core.link.has(rank) {
            core.finish(ClusterEvent::Lost(rank, reason));
        }
    }

    /// This rank joins, and is told where the homes are and which ranks may have pages.
    fn take_homes(&self, core: &Core, vital: &[Rank], segments: &[u8]) -> Result<(), Breach> {
        let map = homes::from_bytes(segments)?;
        vital.iter().for_each(|rank| core.vitals.insert(*rank));
        let notes = self.notes.clone();
        self.mover.tell_homes(map, move |known| notes.tell(Note::HomesKnown(known)));
        Ok(())
    }

    /// The memory of this rank knows them, or cannot take them.
    pub(super) fn homes_known(&mut self, core: &mut Core, known: Result<(), HomesError>) {
        match known {
            Ok(()) => core.link.send(DEVICE_RANK, &Control::HomesKnown, &[]),
            Err(error) => self.lost(core, DEVICE_RANK, format!("it tells what cannot be: {error}")),
        }
    }

    /// No vCPU is here any more, and none will come: this rank gives up all pages, and makes sure that all has arrived that it sent for the sake of its vCPUs.
    fn drain(&mut self, core: &Core) {
        let missing = core.link.others().collect();
        core.link.send_to_others(&Control::Parting);
        self.leaving = Some(Leaving { missing, pages_given_up: false, told: false });
        let notes = self.notes.clone();
        self.leaver.begin(move || notes.tell(Note::PagesGivenUp));
    }

    /// The memory of this rank has given up all pages of others.
    pub(super) fn pages_given_up(&mut self, core: &Core) {
        if let Some(leaving) = &mut self.leaving {
            leaving.pages_given_up = true;
        }
        self.tell_if_drained(core);
    }

    fn tell_if_drained(&mut self, core: &Core) {
        if let Some(leaving @ Leaving { pages_given_up: true, told: false, .. }) = &mut self.leaving
            && leaving.missing.is_empty()
        {
            leaving.told = true;
            core.link.send(DEVICE_RANK, &Control::Drained, &[]);
        }
    }

    /// Nothing better has come in time. What rank 0 has not been told yet, it is told now, so that it can say the cause;
    /// when it does not answer either, this rank ends by itself.
    pub(super) fn suspected(&mut self, core: &mut Core, suspect: Suspect) {
        match suspect.basis {
            Basis::Elsewhere if !self.takes_part => self.give_up_joining(core, suspect.rank, suspect.reason),
            Basis::Elsewhere if core.link.has(suspect.rank) => Self::tell_loss(core, suspect.rank, suspect.reason),
            Basis::Elsewhere => {}
            Basis::Told => {
                self.go_on_alone(core);
                core.finish(ClusterEvent::Lost(suspect.rank, suspect.reason));
            }
        }
    }

    /// There is no word of rank 0 to wait for: stays until the others are as far, and learns which of them are there.
    fn go_on_alone(&mut self, core: &Core) {
        self.known_at = Some(Instant::now() + SPREAD_TIME);
        self.answer_roll(core);
    }

    /// Tells all others but rank 0, once, that this rank is there.
    fn answer_roll(&mut self, core: &Core) {
        if self.roll.open() {
            core.link
                .others()
                .filter(|to| *to != DEVICE_RANK)
                .for_each(|to| core.link.send(to, &Control::Present, &[]));
        }
    }

    /// Tells rank 0 of a loss. That rank 0 itself is not reached on another channel is this rank's own failure to it.
    fn tell_loss(core: &mut Core, rank: Rank, reason: String) {
        let told = if rank == DEVICE_RANK {
            Control::lost(core.link.rank(), &format!("it has lost rank 0: {reason}"))
        } else {
            Control::lost(rank, &reason)
        };
        core.link.send(DEVICE_RANK, &told, &[]);
        core.suspect(rank, reason, Basis::Told);
    }

    /// Whether other ranks may not know of the end or of rank 0's loss yet, and would take a closed connection for a loss.
    pub(super) fn lingers(&self) -> bool {
        self.ended && !self.closed || self.known_at.is_some_and(|known| Instant::now() < known)
    }

    /// When [`Self::keep_time`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next_drift
    }

    pub(super) fn keep_time(&mut self, core: &Core, now: Instant) {
        if self.next_drift.is_some_and(|due| due <= now) {
            self.next_drift = None;
            if !core.over {
                self.measure(core, DRIFT_PROBES);
            }
        }
    }

    /// It is over: who waits for the first measurement need not wait.
    pub(super) fn give_up_clock(&mut self) {
        self.first_measured = None;
    }

    fn clock_answer(&mut self, core: &Core, number: u32, reading: ClockReading) -> Result<(), Breach> {
        let now = host_ticks();
        let next = self.measurement.as_mut().and_then(|measurement| measurement.answer(number, reading, now));
        match next {
            None => return Err(Breach(format!("an answer to clock probe {number}, which waits for none"))),
            Some(Next::Probe(number)) => core.link.send(DEVICE_RANK, &Control::ClockProbe { number }, &[]),
            Some(Next::Done(measured)) => self.measured(measured),
        }
        Ok(())
    }

    fn measured(&mut self, measured: Measured) {
        // One counter cannot drift from itself.
        self.next_drift = (!measured.same_counter).then(|| Instant::now() + DRIFT_STEP);
        match self.first_measured.take() {
            Some(sender) => {
                // Whoever waits for it may have given up.
                let _ = sender.send(measured);
            }
            None => {
                let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
                let (offset, khz) = (applied.offset, applied.khz);
                applied.stats.measured(measured, offset, khz);
            }
        }
    }

    fn tell_statistics(&self, core: &Core) {
        let mut bytes = self.statistics.tell();
        if bytes.len() > MAX_STATISTICS {
            tracing::warn!("{} bytes of statistics are more than the {MAX_STATISTICS} that can be told", bytes.len());
            bytes.clear();
        }
        core.link.send(DEVICE_RANK, &Control::Statistics, &bytes);
    }
}
