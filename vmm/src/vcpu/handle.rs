//! What the rest of the machine holds of a vCPU.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::kick::{Kick, KickWaker};
use super::sampling::{SampleSlot, Samples, Wanted};
use super::{StateError, VcpuState, VcpuStats};
use crate::apic::Mailbox;
use crate::topology::VcpuId;

/// A command to a vCPU's thread, and where its answer goes.
#[derive(Debug)]
pub(super) enum Command {
    /// Stay at the next instruction boundary until [`Command::Resume`].
    Pause(SyncSender<()>),
    /// Go on.
    Resume(SyncSender<()>),
    /// Copy the state out.
    Save(SyncSender<Result<Box<VcpuState>, StateError>>),
    /// Copy the state out and rest until one arrives.
    Depart(SyncSender<Result<Box<VcpuState>, StateError>>),
    /// Put a state in.
    Restore(Box<VcpuState>, SyncSender<Result<(), StateError>>),
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
    commands: SyncSender<Command>,
    stats: Arc<VcpuStats>,
    wanted: Arc<Wanted>,
}

/// The same things as the vCPU's thread holds them.
#[derive(Debug)]
pub(crate) struct VcpuShared {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) kick: Arc<Kick>,
    pub(super) commands: Receiver<Command>,
    pub(super) stats: Arc<VcpuStats>,
    pub(super) sample: SampleSlot,
}

/// Commands that may wait for one vCPU before a sender has to.
const COMMAND_QUEUE: usize = 4;

impl VcpuHandle {
    /// What others hold of a vCPU, and what its thread does.
    ///
    /// `samples`: where the thread notes which instructions run into faults, when it is asked to.
    pub(crate) fn new(id: VcpuId, samples: Arc<Samples>) -> (Self, VcpuShared) {
        let (commands, receiver) = sync_channel(COMMAND_QUEUE);
        let kick = Arc::new(Kick::default());
        let mailbox = Arc::new(Mailbox::new(Box::new(KickWaker(Arc::clone(&kick)))));
        let stats = Arc::new(VcpuStats::default());
        let wanted = Arc::new(Wanted::default());
        let shared = VcpuShared {
            mailbox: Arc::clone(&mailbox),
            kick: Arc::clone(&kick),
            commands: receiver,
            stats: Arc::clone(&stats),
            sample: SampleSlot { wanted: Arc::clone(&wanted), samples },
        };
        (Self { id, mailbox, kick, commands, stats, wanted }, shared)
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
    /// [`CommandError`] when its thread has ended or KVM refuses; then it has not left.
    pub fn depart(&self) -> Result<Box<VcpuState>, CommandError> {
        Ok(self.ask(Command::Depart)??)
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
        // There is room, as nobody else tells it anything while it rests but to stop; and one that has ended has told so on its own way.
        let _ = self.commands.try_send(Command::Arrive(state));
        self.kick.call_attention();
    }

    /// Ends its thread; does not wait for it.
    pub(crate) fn stop(&self) {
        // A full queue or a receiver that is gone: attention alone lets the thread see what it has, or it has ended.
        let _ = self.commands.send(Command::Stop);
        self.kick.call_attention();
    }

    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Result<T, CommandError> {
        let (answer, answered) = sync_channel(1);
        self.commands.send(command(answer)).map_err(|_| CommandError::Stopped)?;
        self.kick.call_attention();
        answered.recv().map_err(|_| CommandError::Stopped)
    }
}
