//! The doorbell: how guest programs' commands come to the thread that serves relaxed memory, and how their vCPUs wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::Serialize;
use vincs_guest_commands::{ANSWERED, ASKED, COMMAND, FIRST, RESULT, SECOND, SLOTS, THIRD, WORDS};
use vm_memory::{Bytes, GuestRegionMmap, MemoryRegionAddress};

use super::commands::{Words, result};
use crate::apic::Waker;
use crate::layout::{PAGE_SIZE, RELAXED_CONTROL, RELAXED_HEADER};
use crate::memory::engine::mailbox::locked;
use crate::memory::hlrc::Statistics;
use crate::memory::hlrc::command::{Asker, Reply};
use crate::vcpu::VcpuHandle;

const _: () = assert!((2 + SLOTS as u64) * PAGE_SIZE == RELAXED_CONTROL);

/// Where a slot's page is, from the start of relaxed memory.
fn slot_page(slot: u16) -> u64 {
    RELAXED_HEADER + (1 + u64::from(slot)) * PAGE_SIZE
}

/// Where the doorbell is, from the start of relaxed memory.
pub(super) const DOORBELL: u64 = RELAXED_HEADER + RELAXED_CONTROL - PAGE_SIZE;

/// What a rank's doorbell has counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Rings {
    /// Commands that were begun.
    pub commands: u64,
    /// Commands that made no sense.
    pub refused: u64,
    /// Exits for commands, and to go on waiting for them.
    pub rings: u64,
}

/// A slot whose command is under way.
#[derive(Debug)]
struct UnderWay {
    asked: u32,
    since: Instant,
    /// The vCPU that waits for it, if one does.
    waits: Option<Arc<dyn Waker>>,
}

/// What the thread that serves and the vCPUs share.
#[derive(Debug)]
struct Slots {
    /// The control part as vincs sees it, from the start of relaxed memory on.
    memory: Arc<GuestRegionMmap>,
    slots: Vec<Mutex<Option<UnderWay>>>,
    rings: Mutex<Rings>,
    /// How long commands have taken, added up, in nanoseconds.
    taken: AtomicU64,
}

impl Slots {
    fn read<const N: usize>(&self, slot: u16, at: u16) -> [u8; N] {
        let mut bytes = [0; N];
        // All slots are in it.
        let _ = self.memory.read_slice(&mut bytes, MemoryRegionAddress(slot_page(slot) + u64::from(at)));
        bytes
    }

    fn write(&self, slot: u16, at: u16, word: u32) {
        // As above. Whoever sees the word sees what was written before it.
        let _ = self.memory.store(word, MemoryRegionAddress(slot_page(slot) + u64::from(at)), Ordering::Release);
    }

    fn slot(&self, slot: u16) -> Option<&Mutex<Option<UnderWay>>> {
        self.slots.get(usize::from(slot))
    }

    /// A command has come to its end. The slot is free for the next one only when all of the answer is in it: rung before, the same command would begin
    /// again.
    fn answer(&self, slot: u16, result: u32, words: &[u64]) {
        let Some(entry) = self.slot(slot) else { return };
        let mut under_way = locked(entry);
        let Some(asked) = under_way.as_ref().map(|under_way| under_way.asked) else { return };
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        // A team has no more members than there is room for.
        let _ = self.memory.write_slice(&bytes, MemoryRegionAddress(slot_page(slot) + u64::from(WORDS)));
        self.write(slot, RESULT, result);
        self.write(slot, ANSWERED, asked);
        let ended = under_way.take();
        drop(under_way);
        let Some(UnderWay { since, waits, .. }) = ended else { return };
        // 584 years fit.
        self.taken.fetch_add(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(vcpu) = waits {
            vcpu.wake();
        }
    }
}

/// A rank's doorbell.
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// Guest-physical address of its page.
    address: u64,
    rank: u16,
    /// All vCPUs of the machine, and whether their place is on this rank.
    vcpus: Vec<(VcpuHandle, bool)>,
    slots: Arc<Slots>,
    asker: Asker,
}

impl Doorbell {
    pub(super) fn new(
        start: u64,
        rank: u16,
        memory: Arc<GuestRegionMmap>,
        vcpus: Vec<(VcpuHandle, bool)>,
        asker: Asker,
    ) -> Self {
        let slots = (0..SLOTS).map(|_| Mutex::new(None)).collect();
        let slots = Arc::new(Slots { memory, slots, rings: Mutex::default(), taken: AtomicU64::new(0) });
        Self { address: start + DOORBELL, rank, vcpus, slots, asker }
    }

    /// Whether an address is in its page.
    pub(crate) fn is_at(&self, address: u64) -> bool {
        (self.address..self.address + PAGE_SIZE).contains(&address)
    }

    /// What a guest reads there: this rank's number and one once all vCPUs are where they stay, before that 0.
    pub(crate) fn read(&self) -> u64 {
        let settled = self.vcpus.iter().all(|(vcpu, belongs)| vcpu.is_here() == *belongs);
        if settled { u64::from(self.rank) + 1 } else { 0 }
    }

    /// A guest has written a slot's number there, or anything else: begins the command in the slot. Says whether it is under way; then `vcpu` is woken when it
    /// has ended.
    pub(crate) fn ring(&self, number: u32, vcpu: Arc<dyn Waker>) -> bool {
        locked(&self.slots.rings).rings += 1;
        let Some((number, slot)) = u16::try_from(number).ok().and_then(|slot| Some((slot, self.slots.slot(slot)?)))
        else {
            locked(&self.slots.rings).refused += 1;
            return false;
        };
        let mut under_way = locked(slot);
        if let Some(under_way) = &mut *under_way {
            under_way.waits = Some(vcpu);
            return true;
        }
        let asked = u32::from_le_bytes(self.slots.read(number, ASKED));
        if asked == u32::from_le_bytes(self.slots.read(number, ANSWERED)) {
            return false;
        }
        // Read once: the guest may change it meanwhile.
        let words = Words {
            command: u32::from_le_bytes(self.slots.read(number, COMMAND)),
            first: u64::from_le_bytes(self.slots.read(number, FIRST)),
            second: u64::from_le_bytes(self.slots.read(number, SECOND)),
            third: u64::from_le_bytes(self.slots.read(number, THIRD)),
        };
        *under_way = Some(UnderWay { asked, since: Instant::now(), waits: Some(vcpu) });
        drop(under_way);
        match words.ask(number) {
            Ok((thread, ask)) => {
                locked(&self.slots.rings).commands += 1;
                let slots = Arc::clone(&self.slots);
                let reply = Reply::new(move |answer, words| slots.answer(number, result(answer), words));
                self.asker.ask(thread, ask, reply);
            }
            Err(result) => {
                locked(&self.slots.rings).refused += 1;
                self.slots.answer(number, result, &[]);
            }
        }
        self.is_under_way(number.into())
    }

    /// Whether the command in a slot is under way.
    pub(crate) fn is_under_way(&self, number: u32) -> bool {
        let slot = u16::try_from(number).ok().and_then(|slot| self.slots.slot(slot));
        slot.is_some_and(|slot| locked(slot).is_some())
    }

    /// The vCPU that has rung does other things meanwhile.
    pub(crate) fn stop_waiting(&self, number: u32) {
        let slot = u16::try_from(number).ok().and_then(|slot| self.slots.slot(slot));
        if let Some(under_way) = slot.and_then(|slot| locked(slot).as_mut().map(|under_way| under_way.waits.take())) {
            drop(under_way);
        }
    }

    /// What it has counted, and what the memory has; nothing of that once it was stopped.
    pub(crate) fn stats(&self) -> super::RelaxedStats {
        let memory = self.asker.statistics().unwrap_or_default();
        // Threads of guests synchronise by commands, or take no time for it.
        let memory = Statistics { synchronising: self.slots.taken.load(Ordering::Relaxed), ..memory };
        super::RelaxedStats { rings: *locked(&self.slots.rings), memory }
    }
}

#[cfg(test)]
mod tests;
