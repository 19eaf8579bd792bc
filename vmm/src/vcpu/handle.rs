//! What the rest of the machine holds of a vCPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};

use super::kick::{Kick, KickWaker};
use super::sampling::{SampleSlot, Samples, Wanted};
use super::{StateError, VcpuState, VcpuStats};
use crate::apic::Mailbox;
use crate::topology::VcpuId;

/// Takes an answer of a vCPU's thread, on that thread. One that is dropped without a call tells that the thread has ended.
pub(super) type Answer<T> = Box<dyn FnOnce(T) + Send>;

/// A command to a vCPU's thread, and where its answer goes.
pub(super) enum Command {
    /// Stay at the next instruction boundary until [`Command::Resume`].
    Pause(Answer<()>),
    /// Go on.
    Resume(Answer<()>),
    /// Copy the state out.
    Save(Answer<Result<Box<VcpuState>, StateError>>),
    /// Copy the state out and rest until one arrives. A state that cannot be copied ends the thread.
    Depart(Answer<Box<VcpuState>>),
    /// Put a state in.
    Restore(Box<VcpuState>, Answer<Result<(), StateError>>),
    /// Go on with a state that comes from elsewhere; whether that goes well is seen by whether it goes on.
    Arrive(Box<VcpuState>),
    /// End the thread.
    Stop,
}

/// Why a vCPU did not obey.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Its thread has ended.
    #[error("the vCPU has stopped")]
    Stopped,
    /// Its state could not be read or set.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A vCPU as others see it; usable from any thread.
#[derive(Clone, Debug)]
pub struct VcpuHandle {
    id: VcpuId,
    mailbox: Arc<Mailbox>,
    kick: Arc<Kick>,
    /// Whoever waits for an answer has one command there, and a move two: that bounds it.
    commands: Sender<Command>,
    elsewhere: Arc<AtomicBool>,
    stats: Arc<VcpuStats>,
    wanted: Arc<Wanted>,
}

/// The same things as the vCPU's thread holds them.
#[derive(Debug)]
pub(crate) struct VcpuShared {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) kick: Arc<Kick>,
    pub(super) commands: Receiver<Command>,
    /// It goes on in another place, until its state comes back. Written by the thread.
    pub(super) elsewhere: Arc<AtomicBool>,
    pub(super) stats: Arc<VcpuStats>,
    pub(super) sample: SampleSlot,
}

impl VcpuHandle {
    /// What others hold of a vCPU, and what its thread does.
    ///
    /// `samples`: where the thread notes which instructions run into faults, when it is asked to. `elsewhere`: another place has it at
    /// first, and it rests until its state comes.
    pub(crate) fn new(id: VcpuId, samples: Arc<Samples>, elsewhere: bool) -> (Self, VcpuShared) {
        let (commands, receiver) = channel();
        let elsewhere = Arc::new(AtomicBool::new(elsewhere));
        let kick = Arc::new(Kick::default());
        let mailbox = Arc::new(Mailbox::new(Box::new(KickWaker(Arc::clone(&kick)))));
        let stats = Arc::new(VcpuStats::default());
        let wanted = Arc::new(Wanted::default());
        let shared = VcpuShared {
            mailbox: Arc::clone(&mailbox),
            kick: Arc::clone(&kick),
            commands: receiver,
            elsewhere: Arc::clone(&elsewhere),
            stats: Arc::clone(&stats),
            sample: SampleSlot { wanted: Arc::clone(&wanted), samples },
        };
        (Self { id, mailbox, kick, commands, elsewhere, stats, wanted }, shared)
    }

    /// Its number in the machine.
    #[must_use]
    pub fn id(&self) -> VcpuId {
        self.id
    }

    /// How to ask the thread which instruction ran into a fault.
    pub(super) fn sampled_by(&self) -> (Arc<Kick>, Arc<Wanted>) {
        (Arc::clone(&self.kick), Arc::clone(&self.wanted))
    }

    /// Where its interrupts are left.
    #[must_use]
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> &VcpuStats {
        &self.stats
    }

    /// Whether it is here, at work or not; otherwise it goes on in another place.
    #[must_use]
    pub fn is_here(&self) -> bool {
        !self.elsewhere.load(Ordering::SeqCst)
    }

    /// Stops it at an instruction boundary until [`Self::resume`]. Pausing twice is the same as once.
    ///
    /// # Errors
    /// [`CommandError::Stopped`] when its thread has ended.
    pub fn pause(&self) -> Result<(), CommandError> {
        self.ask(Command::Pause)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// [`CommandError::Stopped`] when its thread has ended.
    pub fn resume(&self) -> Result<(), CommandError> {
        self.ask(Command::Resume)
    }

    /// Its state at the next instruction boundary.
    ///
    /// # Errors
    /// [`CommandError`] when its thread has ended or KVM refuses.
    pub fn save(&self) -> Result<Box<VcpuState>, CommandError> {
        Ok(self.ask(Command::Save)??)
    }

    /// Its state at the next instruction boundary, with which another place goes on: here it rests until [`Self::arrive`].
    ///
    /// # Errors
    /// [`CommandError::Stopped`] when its thread has ended, or does because KVM refuses to tell the state.
    pub fn depart(&self) -> Result<Box<VcpuState>, CommandError> {
        self.ask(Command::Depart)
    }

    /// The same without waiting: its thread gives the state to `send`.
    pub(crate) fn depart_to(&self, send: impl FnOnce(Box<VcpuState>) + Send + 'static) {
        self.tell(Command::Depart(Box::new(send)));
    }

    /// Stops it without waiting: its thread calls `rests` when it has stopped, or drops it when it ends.
    pub(crate) fn pause_and(&self, rests: impl FnOnce() + Send + 'static) {
        self.tell(Command::Pause(Box::new(|()| rests())));
    }

    /// Lets it go on without waiting until it has heard that.
    pub(crate) fn let_go_on(&self) {
        self.tell(Command::Resume(Box::new(|()| ())));
    }

    /// Replaces its state.
    ///
    /// # Errors
    /// [`CommandError`] when its thread has ended or the state does not fit.
    pub fn restore(&self, state: Box<VcpuState>) -> Result<(), CommandError> {
        Ok(self.ask(|answer| Command::Restore(state, answer))??)
    }

    /// Lets a vCPU that was elsewhere go on with a state that comes from there, without waiting for it. When the state does not fit, it ends.
    pub fn arrive(&self, state: Box<VcpuState>) {
        self.tell(Command::Arrive(state));
    }

    /// Ends its thread; does not wait for it.
    pub(crate) fn stop(&self) {
        self.tell(Command::Stop);
    }

    /// Never waits.
    fn tell(&self, command: Command) {
        // One that has ended has told so on its own way.
        let _ = self.commands.send(command);
        self.kick.call_attention();
    }

    fn ask<T: Send + 'static>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, CommandError> {
        let (sender, answered) = sync_channel(1);
        self.tell(command(Box::new(move |answer| {
            // Whoever asked may have gone: then the answer is not needed.
            let _ = sender.send(answer);
        })));
        answered.recv().map_err(|_| CommandError::Stopped)
    }
}
