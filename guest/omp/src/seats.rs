//! Where threads are on a machine of several ranks.
//!
//! What a thread writes to relaxed memory is its rank's until it releases, and what it acquires is its rank's, too. So each thread stays on one rank. The
//! program's first thread, and what it starts by itself, is kept on a rank by the guest's library. Threads of the OpenMP runtime are spread
//! here: each takes a processor for good as it begins its first part of a parallel region, when it has written nothing and acquires next.
//!
//! The runtime itself is kept from moving threads by `KMP_AFFINITY=disabled`. What the program does about its processors itself is found out at the
//! thread's next synchronisation, and ends the program: what it wrote since the last one would be lost without a word.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A processor, and the rank that it is on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Seat {
    processor: usize,
    rank: u32,
}

/// The processors of a program on several ranks.
#[derive(Debug)]
pub(crate) struct Seats {
    /// In the order in which threads of a team take them: from where the program started.
    order: Vec<Seat>,
    /// Threads that each has been given to.
    taken: Mutex<Vec<u32>>,
    /// Ranks on which threads have synchronised, a bit for each.
    used: AtomicU64,
}

/// Why the program cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeatError {
    /// A thread is not where it was.
    #[error(
        "a thread has been moved from rank {from} to {to}, and what it wrote was left behind: on several ranks leave threads where they are (sched_setaffinity)"
    )]
    Moved {
        /// Its rank.
        from: u32,
        /// Where it is.
        to: String,
    },
    /// The kernel does not put a thread there.
    #[error("a thread cannot be put on processor {processor}: {source}; see what may be used with taskset -p")]
    Processor {
        /// Which one.
        processor: usize,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Where the calling thread is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Wherever it was started, and has not synchronised.
    Unknown,
    /// It is the runtime's, and has no seat yet.
    Spare,
    /// It stays on this rank.
    On(u32),
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Unknown) };
}

impl Seats {
    /// Of processors and their ranks, for a program that starts on the processor `first`; nothing where there are none.
    pub(crate) fn new(places: Vec<(usize, u32)>, first: usize) -> Option<Self> {
        let home = places.iter().find(|(processor, _)| *processor == first).or(places.first()).copied()?;
        let mut order: Vec<_> = places.into_iter().map(|(processor, rank)| Seat { processor, rank }).collect();
        // Neighbours in a team share data more often than others do, so they are on one rank where that is possible.
        order.sort_by_key(|seat| {
            (seat.rank != home.1, seat.rank < home.1, seat.rank, seat.processor != home.0, seat.processor)
        });
        let mut taken = vec![0; order.len()];
        if let Some(first) = taken.first_mut() {
            *first = 1;
        }
        Some(Self { order, taken: Mutex::new(taken), used: AtomicU64::new(0) })
    }

    /// Processors.
    pub(crate) fn count(&self) -> usize {
        self.order.len()
    }

    /// Ranks on which threads have synchronised.
    pub(crate) fn ranks_used(&self) -> u32 {
        self.used.load(Ordering::Relaxed).count_ones()
    }

    /// The calling thread is one of the runtime's, and begins.
    pub(crate) fn is_spare() {
        PLACE.set(Place::Spare);
    }

    /// The calling thread begins its part of a parallel region as the one of this number. One that has no seat yet takes one: that of its number if nobody
    /// has it, else one that the fewest have.
    pub(crate) fn sit(&self, number: usize) -> Result<(), SeatError> {
        if PLACE.get() != Place::Spare {
            return Ok(());
        }
        let Some(Seat { processor, rank }) = self.take(number) else { return Ok(()) };
        move_to(processor).map_err(|source| SeatError::Processor { processor, source })?;
        PLACE.set(Place::On(rank));
        Ok(())
    }

    fn take(&self, number: usize) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = number.checked_rem(taken.len())?;
        let free = taken.get(wanted).filter(|threads| **threads == 0).map(|_| wanted);
        let fewest = || taken.iter().enumerate().min_by_key(|(_, threads)| **threads).map(|(place, _)| place);
        let place = free.or_else(fewest)?;
        *taken.get_mut(place)? += 1;
        self.order.get(place).copied()
    }

    /// The calling thread is about to synchronise: it must be on the rank on which it was.
    pub(crate) fn check(&self) -> Result<(), SeatError> {
        let processor = Processors::current();
        let rank = self.order.iter().find(|seat| Some(seat.processor) == processor).map(|seat| seat.rank);
        match (PLACE.get(), rank) {
            (Place::On(from), rank) if rank != Some(from) => {
                let to =
                    rank.map_or("a processor that it did not start with".to_owned(), |rank| format!("rank {rank}"));
                return Err(SeatError::Moved { from, to });
            }
            (Place::Unknown, Some(rank)) => PLACE.set(Place::On(rank)),
            // One without a seat may take it yet: what it has acquired and released until then is complete.
            (Place::Unknown | Place::Spare | Place::On(_), _) => {}
        }
        let bit = rank.and_then(|rank| 1u64.checked_shl(rank)).unwrap_or(0);
        // Written once by each rank: its page would move at every synchronisation.
        if self.used.load(Ordering::Relaxed) & bit != bit {
            self.used.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Processors that a thread may run on.
#[derive(Clone, Copy)]
pub(crate) struct Processors(libc::cpu_set_t);

impl Processors {
    fn none() -> Self {
        // SAFETY: a set of processors is plain words; without a bit set it is empty.
        Self(unsafe { std::mem::zeroed() })
    }

    /// One of them; nothing if it has a number beyond those that a set has.
    fn one(processor: usize) -> Option<Self> {
        let mut one = Self::none();
        if processor >= usize::try_from(libc::CPU_SETSIZE).unwrap_or(0) {
            return None;
        }
        // SAFETY: the processor is one of those that a set has.
        unsafe { libc::CPU_SET(processor, &mut one.0) };
        Some(one)
    }

    /// Those of the calling thread; none if the kernel does not tell.
    pub(crate) fn of_thread() -> Self {
        let mut set = Self::none();
        // SAFETY: the set is there during the call; 0 is the calling thread.
        unsafe { libc::sched_getaffinity(0, size_of_val(&set.0), &raw mut set.0) };
        set
    }

    /// Has the calling thread, and those that it starts, run on them alone.
    pub(crate) fn give_to_thread(self) -> io::Result<()> {
        // SAFETY: as above.
        let done = unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), &raw const self.0) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// How many the machine has that run.
    pub(crate) fn of_machine() -> usize {
        // SAFETY: any name may be asked for.
        usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(0)
    }

    /// The one that the calling thread runs on.
    pub(crate) fn current() -> Option<usize> {
        // SAFETY: it takes nothing, and gives the processor or -1.
        usize::try_from(unsafe { libc::sched_getcpu() }).ok()
    }
}

impl std::fmt::Debug for Processors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Processors")
    }
}

/// Keeps the calling thread on a processor.
fn move_to(processor: usize) -> io::Result<()> {
    Processors::one(processor).ok_or(io::ErrorKind::InvalidInput)?.give_to_thread()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three ranks with two processors each, of a program that starts on this one.
    fn seats(first: usize) -> Seats {
        Seats::new((0..6).zip([0, 0, 1, 1, 2, 2]).collect(), first).unwrap()
    }

    #[test]
    fn threads_take_the_processors_of_their_rank_first_then_those_of_the_next() {
        for (first, order) in
            [(0, [0, 1, 2, 3, 4, 5]), (3, [3, 2, 4, 5, 0, 1]), (4, [4, 5, 0, 1, 2, 3]), (9, [0, 1, 2, 3, 4, 5])]
        {
            let seats = seats(first);
            let taken: Vec<_> = (1..6).rev().map(|number| seats.take(number).unwrap().processor).collect();
            let expected: Vec<_> = order[1..].iter().copied().rev().collect();
            assert_eq!(taken, expected, "from {first}");
        }
    }

    #[test]
    fn who_finds_its_seat_taken_has_one_of_those_that_the_fewest_have() {
        let seats = seats(0);
        let take = |number| seats.take(number).unwrap().processor;
        assert_eq!([take(1), take(2), take(1), take(7)], [1, 2, 3, 4], "inner teams count from 1, too");
        assert_eq!(take(0), 5, "the first has the program's own thread");
        assert_eq!([take(5), take(3), take(1)], [0, 1, 2], "all have one");
        assert_eq!((seats.count(), seats.ranks_used()), (6, 0));
        assert!(Seats::new(Vec::new(), 0).is_none(), "on one rank nobody is put anywhere");
    }

    /// The processors of this machine, the first on rank 0 and the others on rank 1.
    fn here() -> (Vec<usize>, Seats) {
        let allowed = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let list = allowed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned();
        let numbers = list.split(',').flat_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse::<usize>().unwrap()..=last.parse().unwrap()
        });
        let processors: Vec<_> = numbers.collect();
        let places = processors.iter().enumerate().map(|(at, processor)| (*processor, u32::from(at > 0))).collect();
        let seats = Seats::new(places, processors[0]).unwrap();
        (processors, seats)
    }

    #[test]
    fn a_thread_that_is_moved_is_told_and_one_of_the_runtime_may_sit_down_once() {
        let (processors, seats) = here();
        let &[first, second, ..] = processors.as_slice() else { return };
        let moved = |seats: &Seats| seats.check().map_err(|error| error.to_string());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                move_to(first).unwrap();
                moved(&seats).unwrap();
                seats.sit(1).unwrap();
                moved(&seats).expect("it is the program's own, and stays where it was");
                move_to(second).unwrap();
                let line = moved(&seats).unwrap_err();
                assert!(line.contains("from rank 0 to rank 1") && !line.contains('\n'), "{line}");
            });
            scope.spawn(|| {
                Seats::is_spare();
                move_to(first).unwrap();
                moved(&seats).unwrap();
                seats.sit(1).unwrap();
                moved(&seats).expect("it has a seat on rank 1");
                seats.sit(0).unwrap();
                moved(&seats).expect("and keeps it");
                move_to(first).unwrap();
                assert!(moved(&seats).is_err());
            });
        });
        assert_eq!(seats.ranks_used(), 2);
    }

    #[test]
    fn a_processor_that_is_none_is_named() {
        let set = usize::try_from(libc::CPU_SETSIZE).unwrap();
        assert_eq!(move_to(set).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(move_to(set - 1).is_err(), "no machine of tests has so many");
    }
}
