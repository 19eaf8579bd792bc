//! Where anyone leaves interrupts for a vCPU.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Delivery, LocalApic};

const WORDS: usize = 4;

/// Makes a vCPU's thread look at its mailbox, wherever it is: in the guest, asleep or between.
pub trait Waker: Send + Sync + fmt::Debug {
    /// Wakes the thread. Never blocks.
    fn wake(&self);
}

/// Events for a vCPU that are not vectors.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Signals {
    /// A non-maskable interrupt.
    pub nmi: bool,
    /// INIT: reset and wait for a start-up message.
    pub init: bool,
    /// A start-up message with this vector; comes after `init` when both are there.
    pub start_up: Option<u8>,
}

const NMI: u64 = 1 << 0;
const INIT: u64 = 1 << 1;
const START_UP: u64 = 1 << 2;
const START_UP_VECTOR_SHIFT: u32 = 8;
const START_UP_VECTOR: u64 = 0xff << START_UP_VECTOR_SHIFT;

/// Interrupts left for one vCPU until its thread collects them. Leaving never blocks and never allocates.
#[derive(Debug)]
pub struct Mailbox {
    vectors: [AtomicU64; WORDS],
    level: [AtomicU64; WORDS],
    signals: AtomicU64,
    waker: Box<dyn Waker>,
}

impl Mailbox {
    /// An empty mailbox of the vCPU that `waker` wakes.
    #[must_use]
    pub fn new(waker: Box<dyn Waker>) -> Self {
        Self { vectors: Default::default(), level: Default::default(), signals: AtomicU64::new(0), waker }
    }

    /// Leaves one interrupt and wakes the vCPU.
    pub fn leave(&self, delivery: Delivery, vector: u8, level: bool) {
        match delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                let (word, bit) = (usize::from(vector) / 64, 1 << (vector % 64));
                let trigger = &self.level[word];
                if level {
                    trigger.fetch_or(bit, Ordering::Relaxed);
                } else {
                    trigger.fetch_and(!bit, Ordering::Relaxed);
                }
                if self.vectors[word].fetch_or(bit, Ordering::SeqCst) & bit != 0 {
                    return; // It waits there already, and the wake-up for it is under way.
                }
            }
            Delivery::Nmi => {
                self.signals.fetch_or(NMI, Ordering::SeqCst);
            }
            // INIT cancels a start-up message from before it.
            Delivery::Init => self.change_signals(|signals| (signals & !(START_UP | START_UP_VECTOR)) | INIT),
            Delivery::StartUp => self.change_signals(|signals| {
                (signals & !START_UP_VECTOR) | START_UP | u64::from(vector) << START_UP_VECTOR_SHIFT
            }),
        }
        self.waker.wake();
    }

    /// Whether anything waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.signals.load(Ordering::SeqCst) == 0 && self.vectors.iter().all(|word| word.load(Ordering::SeqCst) == 0)
    }

    /// Moves waiting vectors into the vCPU's local APIC and returns the other events. Called by its thread alone.
    pub fn collect(&self, apic: &mut LocalApic) -> Signals {
        for (word, vectors) in self.vectors.iter().enumerate() {
            if vectors.load(Ordering::SeqCst) != 0 {
                let bits = vectors.swap(0, Ordering::SeqCst);
                apic.accept(word, bits, self.level[word].load(Ordering::Relaxed));
            }
        }
        if self.signals.load(Ordering::SeqCst) == 0 {
            return Signals::default();
        }
        let signals = self.signals.swap(0, Ordering::SeqCst);
        Signals {
            nmi: signals & NMI != 0,
            init: signals & INIT != 0,
            start_up: (signals & START_UP != 0).then(|| (signals >> START_UP_VECTOR_SHIFT).to_le_bytes()[0]),
        }
    }

    /// Wakes the vCPU's thread without leaving anything.
    pub fn wake(&self) {
        self.waker.wake();
    }

    fn change_signals(&self, change: impl Fn(u64) -> u64) {
        // The closure always returns a value, so the update cannot fail.
        let _ = self.signals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |signals| Some(change(signals)));
    }
}
