//! The thread that owns a device and its queues while the driver is active.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{DeviceError, Queues, VirtioDevice};
use crate::interrupt::InterruptLine;

/// What the worker tells the driver: InterruptStatus (virtio 1.2 section 4.2.2) and its line, and DEVICE_NEEDS_RESET.
///
/// The line is an edge, so none may be lost. The worker first publishes used chains, then sets the status bit, then
/// pulses, each time anew. The driver acknowledges, which clears the bit, before it looks at the rings: what was
/// published before the acknowledgement it sees, and what was published after it sets the bit and pulses again.
#[derive(Debug)]
pub(super) struct Interrupt {
    status: AtomicU32,
    needs_reset: AtomicBool,
    line: Arc<dyn InterruptLine>,
}

impl Interrupt {
    pub(super) fn new(line: Arc<dyn InterruptLine>) -> Self {
        Self { status: AtomicU32::new(0), needs_reset: AtomicBool::new(false), line }
    }

    /// InterruptStatus.
    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// InterruptACK.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Whether DEVICE_NEEDS_RESET is set.
    pub(super) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// Sets DEVICE_NEEDS_RESET and tells the driver by a configuration change (section 2.1.2).
    pub(super) fn set_needs_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// The device is as new. Only while no worker runs.
    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
        self.needs_reset.store(false, Ordering::SeqCst);
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        self.line.pulse();
    }
}

/// A running worker thread; it gives the device back when it ends.
#[derive(Debug)]
pub(super) struct Worker {
    thread: JoinHandle<Option<Box<dyn VirtioDevice>>>,
    stop: EventFd,
}

/// The worker did not start; its device is given back.
#[derive(Debug)]
pub(super) struct NotStarted {
    pub(super) device: Box<dyn VirtioDevice>,
    pub(super) source: io::Error,
}

impl Worker {
    /// Starts the thread that activates the device with these features and serves it. `kicks`: one descriptor per
    /// queue that becomes readable when the driver notifies the queue.
    pub(super) fn start(
        device: Box<dyn VirtioDevice>,
        features: u64,
        queues: Queues,
        kicks: Arc<[EventFd]>,
        interrupt: Arc<Interrupt>,
    ) -> Result<Self, NotStarted> {
        let (hand_over, handed_over) = mpsc::channel::<Box<dyn VirtioDevice>>();
        let spawn = |name: String| {
            let stop = event_fd()?;
            let stopped = stop.try_clone()?;
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                let mut device = handed_over.recv().ok()?;
                device.activate(features);
                let service = Service { device: device.as_mut(), queues, kicks: &kicks, stopped: &stopped };
                if let Err(error) = service.run(&interrupt) {
                    tracing::error!("{}: stopped until its driver resets it: {error}", device.name());
                    interrupt.set_needs_reset();
                }
                Some(device)
            })?;
            Ok(Self { thread, stop })
        };
        let worker = match spawn(device.name().to_owned()) {
            Ok(worker) => worker,
            Err(source) => return Err(NotStarted { device, source }),
        };
        match hand_over.send(device) {
            Ok(()) => Ok(worker),
            Err(mpsc::SendError(device)) => {
                let source = io::Error::other("its thread ended at once");
                Err(NotStarted { device, source })
            }
        }
    }

    /// Ends the thread after what it is doing now. Nothing comes back if the thread panicked.
    pub(super) fn stop(self) -> Option<Box<dyn VirtioDevice>> {
        // A nonblocking eventfd refuses only when its counter is full, and then it is readable all the same.
        let _ = self.stop.write(1);
        self.thread.join().ok().flatten()
    }
}

/// A nonblocking eventfd.
pub(super) fn event_fd() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

/// What the worker thread works on.
struct Service<'a> {
    device: &'a mut dyn VirtioDevice,
    queues: Queues,
    kicks: &'a [EventFd],
    stopped: &'a EventFd,
}

/// What the worker was woken for.
#[derive(Default)]
struct Woken {
    stopped: bool,
    /// Queues that the driver notified.
    queues: Vec<usize>,
    /// Indices of the device's own descriptors that are ready.
    device: Vec<usize>,
}

impl Service<'_> {
    /// Serves until it is told to stop.
    fn run(mut self, interrupt: &Interrupt) -> Result<(), DeviceError> {
        // A notification that came before DRIVER_OK is still in its eventfd.
        let mut due: Vec<usize> = Vec::new();
        loop {
            let woken = self.wait(due.is_empty())?;
            if woken.stopped {
                return Ok(());
            }
            due.extend(woken.queues);
            due.sort_unstable();
            due.dedup();
            let served = self.serve(&woken.device, &due);
            // Also what was used before an error is the driver's.
            if self.queues.take_notification()? {
                interrupt.raise(VIRTIO_MMIO_INT_VRING);
            }
            due = served?;
        }
    }

    /// Calls the handlers for what is ready and returns the queues they have not finished.
    fn serve(&mut self, ready: &[usize], due: &[usize]) -> Result<Vec<usize>, DeviceError> {
        let mut unfinished = Vec::new();
        // First, while what the device waits for is still what these indices mean.
        if !ready.is_empty() {
            self.queues.begin_call();
            self.device.handle_ready(ready, &mut self.queues)?;
            unfinished.extend(self.queues.unfinished());
        }
        for &queue in due {
            self.queues.begin_call();
            self.device.handle_queue(queue, &mut self.queues)?;
            unfinished.extend(self.queues.unfinished());
        }
        Ok(unfinished)
    }

    /// Waits for something to do; only looks when there is something to do already.
    fn wait(&self, may_block: bool) -> Result<Woken, DeviceError> {
        let device_fds = self.device.wait_for();
        let ours = std::iter::once(self.stopped).chain(self.kicks);
        let mut fds: Vec<PollFd<'_>> = ours.map(|fd| PollFd::from_borrowed_fd(borrow(fd), PollFlags::IN)).collect();
        let first_of_device = fds.len();
        fds.extend(device_fds.iter().map(|&(fd, events)| PollFd::from_borrowed_fd(fd, events)));
        let timeout = if may_block { None } else { Some(&Timespec { tv_sec: 0, tv_nsec: 0 }) };
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Woken::default()),
            Err(error) => return Err(DeviceError::Host { what: "cannot wait".into(), source: error.into() }),
        }
        let mut woken = Woken::default();
        for (index, _) in fds.iter().enumerate().filter(|(_, fd)| !fd.revents().is_empty()) {
            match index.checked_sub(first_of_device) {
                Some(of_device) => woken.device.push(of_device),
                None if index == 0 => woken.stopped = true,
                None => woken.queues.push(index - 1),
            }
        }
        for kick in woken.queues.iter().filter_map(|&queue| self.kicks.get(queue)) {
            // It fails only when there is nothing to read.
            let _ = kick.read();
        }
        Ok(woken)
    }
}

fn borrow(fd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the `EventFd` lives, which the result's lifetime borrows.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}
