//! What happened, counted without threads taking a page from each other.

use std::cell::Cell;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Threads that count by themselves; with more, some share.
const SLOTS: usize = 256;

macro_rules! events {
    ($($(#[$doc:meta])* $event:ident = $name:literal,)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Event { $($(#[$doc])* $event,)* }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

events! {
    /// An acquire, for whatever reason.
    Acquire = "acquires",
    /// A release, for whatever reason.
    Release = "releases",
    /// A parallel region has begun.
    Parallel = "parallel_regions",
    /// All threads of one have come to its end.
    ParallelEnd = "parallel_region_ends",
    /// A thread has begun its part of one, or of the program.
    ImplicitTask = "implicit_tasks",
    /// A thread has come to a barrier, taskwait or end of a taskgroup.
    SyncRegion = "sync_regions",
    /// It has found the others there.
    SyncRegionEnd = "sync_region_ends",
    /// A lock, a critical or an ordered region is the thread's.
    MutexAcquired = "mutexes_acquired",
    /// It is about to be no more.
    MutexReleased = "mutexes_released",
    /// A thread is about to add what it has to a reduction's result.
    Reduction = "reductions",
    /// It has added it.
    ReductionEnd = "reduction_ends",
    /// A task is there for others.
    TaskCreated = "tasks_created",
    /// A thread goes from one task to another.
    TaskSwitch = "task_switches",
    /// An iteration or a task waits for others', or is done for them.
    Dependence = "dependences",
    /// The program asks for it.
    Flush = "flushes",
    /// An allocation in relaxed memory.
    Large = "large_allocations",
    /// A large allocation that relaxed memory had no room for.
    Refused = "refused_allocations",
}

/// A thread's counters, in a page of its own: a rank's processors would have to get a shared one from others at each event.
#[derive(Debug)]
#[repr(align(4096))]
struct Slot([AtomicU64; NAMES.len()]);

#[derive(Debug)]
pub(crate) struct Counters {
    slots: [Slot; SLOTS],
    /// Threads so far.
    threads: AtomicUsize,
}

thread_local! {
    /// The thread's slot and one, or 0 while it has none.
    static SLOT: Cell<usize> = const { Cell::new(0) };
}

impl Counters {
    /// For a static, of which the pages that are not used stay the kernel's.
    pub(crate) const fn new() -> Self {
        Self {
            slots: [const { Slot([const { AtomicU64::new(0) }; NAMES.len()]) }; SLOTS],
            threads: AtomicUsize::new(0),
        }
    }

    pub(crate) fn count(&self, event: Event) {
        if SLOT.get() == 0 {
            SLOT.set(self.threads.fetch_add(1, Ordering::Relaxed) % SLOTS + 1);
        }
        if let Some(counter) = self.slots.get(SLOT.get() - 1).and_then(|slot| slot.0.get(event as usize)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A line for each: its name and a number.
    pub(crate) fn lines(&self) -> String {
        let mut lines = String::new();
        for (event, name) in NAMES.iter().enumerate() {
            let counts = self.slots.iter().filter_map(|slot| slot.0.get(event));
            let count: u64 = counts.map(|count| count.load(Ordering::Relaxed)).sum();
            // Writing to a string does not fail.
            let _ = writeln!(lines, "{name} {count}");
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_are_counted_also_where_they_share() {
        static COUNTERS: Counters = Counters::new();
        for _ in 0..SLOTS + 1 {
            std::thread::scope(|scope| {
                scope.spawn(|| COUNTERS.count(Event::Acquire));
            });
        }
        COUNTERS.count(Event::Refused);
        let lines = COUNTERS.lines();
        let lines: Vec<_> = lines.lines().collect();
        assert_eq!(lines[0], format!("acquires {}", SLOTS + 1));
        assert_eq!(lines[lines.len() - 1], "refused_allocations 1");
        assert_eq!(lines.len(), NAMES.len());
    }

    #[test]
    fn the_document_names_every_counter() {
        let document = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/relaxed.md");
        let document = std::fs::read_to_string(document).unwrap();
        let table = document.split_once("\n| counter | of |\n").unwrap().1;
        let cells = table.lines().map_while(|row| row.strip_prefix('|')?.split('|').next());
        let named: Vec<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        assert_eq!(named, NAMES);
    }
}
