//! The thread of one vCPU: enters the guest, answers its exits, delivers interrupts, obeys commands.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, kvm_debugregs, kvm_regs, kvm_sregs, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;

use super::exits::{self, Exit};
use super::handle::{Command, VcpuShared};
use super::kick::{KickTimer, KickWaker, drain_signal, kick_signal};
use super::pace::Pace;
use super::state::{Activity, MSR_TSC, StateShape, VcpuState, read_msr};
use super::stats::{add, count};
use crate::apic::{LocalApic, Router, Signals};
use crate::clock::GuestClock;
use crate::cluster::{Devices, Forwarder};
use crate::kvm::{self, KvmError};
use crate::memory::engine::Processors;
use crate::memory::relaxed::doorbell::Doorbell;
use crate::topology::VcpuId;

/// What all vCPUs of the machine share.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) io: Io,
    pub(crate) router: Arc<Router>,
    /// Where this rank's vCPUs tell that they sleep, if some of the memory is on other ranks.
    pub(crate) spread: Option<Arc<Processors>>,
    /// Where guest programs ring for relaxed memory, if ranks share some.
    pub(crate) doorbell: Option<Arc<Doorbell>>,
}

impl Platform {
    /// The doorbell, if it is at this guest-physical address.
    pub(super) fn doorbell_at(&self, address: u64) -> Option<&Doorbell> {
        self.doorbell.as_deref().filter(|doorbell| doorbell.is_at(address))
    }
}

/// Where the machine's devices are.
#[derive(Debug)]
pub(crate) enum Io {
    /// On this rank.
    Here(Arc<Devices>),
    /// On another one.
    There(Arc<Forwarder>),
}

/// Why a vCPU's thread ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// It was told to.
    Stopped,
    /// The guest shut the processor down: a fault while handling a double fault (SDM volume 3, section 7.15).
    TripleFault,
    /// KVM or the host failed.
    Failed(String),
}

/// One vCPU before its thread runs.
#[derive(Debug)]
pub(crate) struct Vcpu {
    pub(crate) id: VcpuId,
    pub(crate) apic_id: u32,
    pub(crate) fd: VcpuFd,
    pub(crate) shape: StateShape,
    pub(crate) clock: GuestClock,
    /// The bootstrap processor runs from the start; the others wait for a start-up message.
    pub(crate) activity: Activity,
    pub(crate) shared: VcpuShared,
}

/// Runs a vCPU on a thread of its own, which calls `ended` at its end.
pub(crate) fn spawn(
    vcpu: Vcpu,
    reset: ResetState,
    platform: Arc<Platform>,
    ended: impl FnOnce(VcpuId, End) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(format!("vcpu{}", vcpu.id.0)).spawn(move || {
        let id = vcpu.id;
        let end = match Runner::new(vcpu, reset, platform) {
            Ok(mut runner) => runner.run(),
            Err(message) => End::Failed(message),
        };
        ended(id, end);
    })
}

/// Registers after INIT: those after power-up.
#[derive(Clone, Debug)]
pub(crate) struct ResetState {
    pub(crate) registers: kvm_regs,
    pub(crate) special: kvm_sregs,
    pub(crate) debug: kvm_debugregs,
}

struct Runner {
    id: VcpuId,
    fd: VcpuFd,
    shape: StateShape,
    clock: GuestClock,
    apic: LocalApic,
    activity: Activity,
    paused: bool,
    /// The last exit was answered, and KVM has yet to finish its instruction.
    unfinished: bool,
    reset: ResetState,
    platform: Arc<Platform>,
    shared: VcpuShared,
    timer: KickTimer,
    pace: Pace,
    /// When its last instruction elsewhere had ended, until it executes one here.
    came: Option<u64>,
}

/// What an exit means for the loop.
enum Step {
    Continue,
    /// A signal ended the entry: nothing is left to finish.
    Kicked,
    End(End),
}

/// Most device accesses one instruction may ask for. KVM itself interrupts a repeated string instruction after 1024.
const MAX_EXITS_OF_AN_INSTRUCTION: usize = 4096;

/// Longest time that a vCPU waits for a guest program's command in one exit, with interrupts and timer sooner.
const LONGEST_RING: Duration = Duration::from_millis(100);

/// How long a vCPU waits for a command whose timer is due then.
fn ring_limit(timer: Option<Duration>) -> Duration {
    timer.map_or(LONGEST_RING, |timer| timer.min(LONGEST_RING))
}

impl Runner {
    fn new(vcpu: Vcpu, reset: ResetState, platform: Arc<Platform>) -> Result<Self, String> {
        let prepare = || -> io::Result<KickTimer> {
            vcpu.shared.kick.adopt_current_thread()?;
            KickTimer::for_current_thread()
        };
        let timer = prepare().map_err(|error| format!("its thread cannot be prepared: {error}"))?;
        kvm::set_run_signal(&vcpu.fd, kick_signal()).map_err(|error| error.to_string())?;
        Ok(Self {
            id: vcpu.id,
            fd: vcpu.fd,
            shape: vcpu.shape,
            clock: vcpu.clock,
            apic: LocalApic::new(vcpu.apic_id),
            activity: vcpu.activity,
            paused: false,
            unfinished: false,
            reset,
            pace: Pace::new(platform.spread.is_some()),
            platform,
            shared: vcpu.shared,
            timer,
            came: None,
        })
    }

    fn run(&mut self) -> End {
        loop {
            match self.step() {
                Ok(Step::Continue | Step::Kicked) => {}
                Ok(Step::End(end)) => return end,
                Err(error) => return End::Failed(error.to_string()),
            }
        }
    }

    /// One turn: commands, then events, then the guest or sleep.
    fn step(&mut self) -> Result<Step, KvmError> {
        if self.shared.kick.take_attention()
            && let Some(end) = self.obey()
        {
            return Ok(Step::End(end));
        }
        if self.paused || self.shared.elsewhere.load(Ordering::Relaxed) {
            self.is_back();
            self.rest(|| false, None);
            return Ok(Step::Continue);
        }
        let signals = self.shared.mailbox.collect(&mut self.apic);
        self.apply(signals)?;
        self.advance_timer()?;
        match self.activity {
            Activity::WaitForStartUp => {
                self.sleep(false);
                Ok(Step::Continue)
            }
            // HLT with interrupts off ends by NMI or INIT alone: the timer would wake it for nothing, again and again.
            Activity::Halted if self.fd.get_kvm_run().if_flag == 0 => {
                self.sleep(false);
                Ok(Step::Continue)
            }
            Activity::Halted if self.apic.pending().is_none() => {
                self.sleep(true);
                Ok(Step::Continue)
            }
            Activity::Halted | Activity::Running => {
                self.activity = Activity::Running;
                self.inject()?;
                self.enter()
            }
        }
    }

    /// Lets the timer fire when it is due by the counter that the guest itself reads: fired too early, the guest would
    /// find that its time has not come and arm it again, for ever.
    fn advance_timer(&mut self) -> Result<(), KvmError> {
        if self.apic.timer_expiry().is_some_and(|tick| self.clock.now() >= tick) && self.pace.wait().is_zero() {
            let ticks = read_msr(&self.fd, MSR_TSC).map_err(|_| KvmError::Missing("the guest's time-stamp counter"))?;
            self.clock.resync(ticks);
            self.apic.advance(self.clock.now());
            self.pace.fire();
        }
        Ok(())
    }

    /// It goes on here, or would if it had something to do, and has come from elsewhere for that: how long it took is counted once.
    fn is_back(&mut self) {
        if let Some(stopped) = self.came.take() {
            let away = u64::try_from(self.clock.since(stopped).as_nanos()).unwrap_or(u64::MAX);
            // In this order: who sees that it has come finds for how long it was away.
            add(&self.shared.stats.away_nanoseconds, away);
            count(&self.shared.stats.arrivals);
        }
    }

    fn sleep(&mut self, until_timer: bool) {
        self.is_back();
        let expiry = if until_timer { self.apic.timer_expiry() } else { None };
        let limit = expiry.map(|tick| self.clock.until(tick).max(self.pace.wait_asleep()));
        let since = Instant::now();
        self.rest(|| !self.shared.mailbox.is_empty(), limit);
        self.pace.slept(since.elapsed());
    }

    /// Does nothing until a wake, or for `limit`, unless there is work or attention.
    fn rest(&self, work: impl FnOnce() -> bool, limit: Option<Duration>) {
        let told = self.platform.spread.as_ref().inspect(|processors| processors.sleeps());
        self.shared.kick.sleep(work, limit);
        told.inspect(|processors| processors.wakes());
    }

    /// NMI, INIT and start-up messages.
    fn apply(&mut self, signals: Signals) -> Result<(), KvmError> {
        if signals.init {
            self.complete_exit()?;
            self.apic.reset();
            self.load_reset_state(self.reset.special, self.reset.registers)?;
            self.activity = Activity::WaitForStartUp;
        }
        if let (Some(vector), Activity::WaitForStartUp) = (signals.start_up, self.activity) {
            let mut special = self.reset.special;
            special.cs.selector = u16::from(vector) << 8;
            special.cs.base = u64::from(vector) << 12;
            self.load_reset_state(special, kvm_regs { rip: 0, ..self.reset.registers })?;
            self.activity = Activity::Running;
        }
        if signals.nmi && self.activity != Activity::WaitForStartUp {
            self.fd.nmi().map_err(KvmError::ioctl("inject an NMI"))?;
            self.activity = Activity::Running;
        }
        Ok(())
    }

    fn load_reset_state(&self, special: kvm_sregs, registers: kvm_regs) -> Result<(), KvmError> {
        let special = kvm_sregs { apic_base: self.apic.base(), ..special };
        self.fd.set_sregs(&special).map_err(KvmError::ioctl("reset special registers"))?;
        self.fd.set_regs(&registers).map_err(KvmError::ioctl("reset registers"))?;
        self.fd.set_debug_regs(&self.reset.debug).map_err(KvmError::ioctl("reset debug registers"))?;
        // Without these flags KVM would keep a pending NMI and the shadow of an instruction that is no more.
        let flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
        let events = kvm_vcpu_events { flags, ..Default::default() };
        self.fd.set_vcpu_events(&events).map_err(KvmError::ioctl("reset events"))
    }

    /// Gives the guest the interrupt it is ready for, or asks KVM to say when it is.
    fn inject(&mut self) -> Result<(), KvmError> {
        // The unfinished instruction may yet raise an exception (a refused MSR does), and KVM would deliver that and
        // drop the interrupt.
        if self.unfinished && self.apic.pending().is_some() {
            self.complete_exit()?;
        }
        let Some(vector) = self.apic.pending() else {
            self.fd.get_kvm_run().request_interrupt_window = 0;
            return Ok(());
        };
        let run = self.fd.get_kvm_run();
        let mut more = true;
        if run.ready_for_interrupt_injection != 0 && run.if_flag != 0 {
            kvm::interrupt(&self.fd, vector)?;
            count(&self.shared.stats.interrupts);
            self.apic.acknowledge(vector);
            // KVM says anew at the next exit whether the guest is ready for another.
            self.fd.get_kvm_run().ready_for_interrupt_injection = 0;
            more = self.apic.pending().is_some();
        }
        self.fd.get_kvm_run().request_interrupt_window = more.into();
        Ok(())
    }

    fn enter(&mut self) -> Result<Step, KvmError> {
        self.timer.arm(self.apic.timer_expiry(), |tick| self.clock.until(tick).max(self.pace.wait()));
        self.fd.get_kvm_run().cr8 = self.apic.cr8();
        count(&self.shared.stats.entries);
        self.is_back();
        let VcpuShared { kick, mailbox, stats, .. } = &self.shared;
        let Some(exit) = kick.in_guest(|| !mailbox.is_empty(), || self.fd.run()) else { return Ok(Step::Continue) };
        let exit = exits::serve(exit, self.id, &self.platform, stats)?;
        let step = self.answer(exit);
        let kicked = matches!(step, Step::Kicked);
        self.shared.sample.look(kicked, || self.fd.get_regs().ok().map(|registers| registers.rip));
        if kicked {
            count(&self.shared.stats.kicks);
            drain_signal();
            // The signal was perhaps the timer's, which has to be armed again then.
            self.timer.forget();
        }
        Ok(step)
    }

    /// Does what an exit asks of the vCPU itself; the bus has answered already.
    fn answer(&mut self, exit: Exit) -> Step {
        // The guest may have written CR8 while it ran. That comes first: the register access below is younger.
        let cr8 = self.fd.get_kvm_run().cr8;
        if cr8 != self.apic.cr8() {
            self.apic.set_cr8(cr8);
        }
        self.unfinished = matches!(exit, Exit::Answered | Exit::Rung(_) | Exit::ReadMsr(_) | Exit::WriteMsr(..));
        match exit {
            Exit::Served | Exit::Answered => Step::Continue,
            Exit::Rung(slot) => {
                self.ring(slot);
                Step::Continue
            }
            Exit::Abandoned => Step::End(End::Stopped),
            Exit::Kicked => Step::Kicked,
            Exit::ReadMsr(index) => {
                let value = exits::read_msr(index, &self.apic, &self.clock, &self.shared.stats);
                exits::answer_msr(self.fd.get_kvm_run(), value);
                Step::Continue
            }
            Exit::WriteMsr(index, value) => {
                let stats = &self.shared.stats;
                let done = exits::write_msr((index, value), &mut self.apic, &self.clock, &self.platform, stats);
                exits::answer_msr(self.fd.get_kvm_run(), done.map(|()| value));
                Step::Continue
            }
            Exit::Halt => {
                self.activity = Activity::Halted;
                Step::Continue
            }
            Exit::Shutdown => Step::End(End::TripleFault),
            Exit::Failed(message) => Step::End(End::Failed(message)),
            Exit::InternalError => Step::End(End::Failed(self.internal_error())),
        }
    }

    /// Begins a guest program's command, and waits until it has ended or the vCPU has something else to do; then the program rings again.
    fn ring(&self, slot: u32) {
        let Some(doorbell) = &self.platform.doorbell else { return };
        let waker = Arc::new(KickWaker(Arc::clone(&self.shared.kick)));
        if !doorbell.ring(slot, waker) {
            return;
        }
        let timer = self.apic.timer_expiry().map(|tick| self.clock.until(tick).max(self.pace.wait_asleep()));
        self.rest(|| !self.shared.mailbox.is_empty() || !doorbell.is_under_way(slot), Some(ring_limit(timer)));
        doorbell.stop_waiting(slot);
    }

    /// Finishes the instruction whose exit was answered, without executing another: KVM does so on entry. An
    /// instruction may ask for more than one device access, so this goes on until KVM has nothing left to ask.
    fn complete_exit(&mut self) -> Result<(), KvmError> {
        for _ in 0..MAX_EXITS_OF_AN_INSTRUCTION {
            let run = self.fd.get_kvm_run();
            (run.cr8, run.immediate_exit) = (self.apic.cr8(), 1);
            let exit = exits::serve(self.fd.run(), self.id, &self.platform, &self.shared.stats);
            self.fd.set_kvm_immediate_exit(0);
            match self.answer(exit?) {
                Step::Continue => {}
                Step::Kicked => return Ok(()),
                Step::End(end) => return Err(KvmError::unfinished(format!("{end:?}"))),
            }
        }
        Err(KvmError::unfinished(format!("it goes on after {MAX_EXITS_OF_AN_INSTRUCTION} device accesses")))
    }

    /// Obeys the commands that wait; returns whether to end, and how.
    fn obey(&mut self) -> Option<End> {
        while let Ok(command) = self.shared.commands.try_recv() {
            match command {
                Command::Stop => return Some(End::Stopped),
                Command::Pause(answer) => {
                    self.paused = true;
                    answer(());
                }
                Command::Resume(answer) => {
                    self.paused = false;
                    self.pace.forget();
                    answer(());
                }
                Command::Save(answer) => answer(self.save().map(Box::new)),
                Command::Depart(send) => match self.save() {
                    Ok(state) => {
                        self.is_back();
                        self.shared.elsewhere.store(true, Ordering::SeqCst);
                        send(Box::new(state));
                    }
                    Err(error) => return Some(End::Failed(error.to_string())),
                },
                Command::Restore(state, answer) => answer(self.restore(*state)),
                Command::Arrive(state) => {
                    let stopped = state.stopped;
                    if let Err(error) = self.restore(*state) {
                        return Some(End::Failed(error.to_string()));
                    }
                    self.shared.elsewhere.store(false, Ordering::SeqCst);
                    self.came = Some(stopped);
                }
            }
        }
        None
    }

    fn save(&mut self) -> Result<VcpuState, super::StateError> {
        self.complete_exit()?;
        let stopped = self.clock.now();
        // What waits in the mailbox has reached the vCPU, and goes where it goes.
        let signals = self.shared.mailbox.collect(&mut self.apic);
        self.apply(signals)?;
        self.shape.save(&self.fd, &self.apic, self.activity, stopped)
    }

    fn restore(&mut self, state: VcpuState) -> Result<(), super::StateError> {
        self.complete_exit()?;
        self.shape.restore(&self.fd, &state, self.apic.id())?;
        self.apic = state.apic;
        self.activity = state.activity;
        // Flags of the last exit tell of the state before; the next exit tells of this one.
        let run = self.fd.get_kvm_run();
        run.ready_for_interrupt_injection = 0;
        run.if_flag = u8::from(state.registers.rflags & RFLAGS_IF != 0);
        self.pace.forget();
        self.timer.forget();
        Ok(())
    }

    fn internal_error(&mut self) -> String {
        let registers = self.fd.get_regs().map(|registers| format!("{:#x}", registers.rip));
        let at = registers.unwrap_or_else(|_| "an unknown address".into());
        let run = self.fd.get_kvm_run();
        // SAFETY: for this exit reason KVM has filled this member of the union.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let data =
            internal.data.iter().take(internal.ndata as usize).map(|word| format!(" {word:#x}")).collect::<String>();
        format!("KVM cannot emulate the guest's instruction at {at}: error {} with data{data}", internal.suberror)
    }
}

const RFLAGS_IF: u64 = 1 << 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_ends_with_the_timer_or_after_its_longest_time() {
        let edge = LONGEST_RING;
        let nanosecond = Duration::from_nanos(1);
        let timers = [None, Some(edge + nanosecond), Some(edge), Some(edge - nanosecond), Some(Duration::ZERO)];
        assert_eq!(timers.map(ring_limit), [edge, edge, edge, edge - nanosecond, Duration::ZERO]);
    }
}
