//! A team of threads: those of a rayon pool, on each of which the program is broadcast.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

use super::barrier::Barrier;
use super::shared::{Area, Private, Segment};
use super::{MAX_SUM, NoMemory, Team};

/// What the threads have in common.
#[derive(Debug)]
struct Common {
    barrier: Barrier,
    /// What each member adds to a sum, for sums in turns: who is at the next sum already does not disturb those that still add
    /// up this one, and none gets further.
    addends: [Vec<Addends>; 2],
    /// In the order in which they are asked for.
    segments: Mutex<Vec<Result<Piece, NoMemory>>>,
}

/// On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Addends([AtomicU64; MAX_SUM]);

/// A segment, without what is a member's own.
#[derive(Clone, Debug)]
struct Piece {
    bytes: usize,
    area: Arc<Area>,
}

/// One thread's view.
#[derive(Debug)]
struct Member<'a> {
    common: &'a Common,
    number: usize,
    members: usize,
    /// Barriers so far.
    passed: Arc<AtomicU64>,
    /// Segments asked for so far.
    asked: AtomicU64,
}

/// Runs `program` on `members` threads at once, at least one, and gives what member 0's gave.
///
/// # Errors
///
/// The threads cannot be started.
pub fn run<R: Send>(members: usize, program: impl Fn(&dyn Team) -> R + Sync) -> Result<R, ThreadPoolBuildError> {
    let pool = ThreadPoolBuilder::new().num_threads(members.max(1)).thread_name(|at| format!("member {at}")).build()?;
    let members = pool.current_num_threads();
    let addends = || (0..members).map(|_| Addends::default()).collect();
    let common =
        Common { barrier: Barrier::new(members), addends: [addends(), addends()], segments: Mutex::new(Vec::new()) };
    let mut results = pool.broadcast(|thread| {
        let passed = Arc::default();
        program(&Member { common: &common, number: thread.index(), members, passed, asked: AtomicU64::new(0) })
    });
    Ok(results.swap_remove(0))
}

impl Team for Member<'_> {
    fn member(&self) -> usize {
        self.number
    }

    fn members(&self) -> usize {
        self.members
    }

    fn barrier(&self) {
        self.common.barrier.wait();
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self, values: &mut [f64]) {
        assert!(values.len() <= MAX_SUM, "{} values, at most {MAX_SUM}", values.len());
        // Every sum is a barrier, so all members see the same turn, and it changes between two sums that follow each other: with
        // other barriers between them it may not, but then those keep the two apart.
        let addends = &self.common.addends[usize::from(self.passed.load(Ordering::Relaxed) % 2 == 1)];
        for (slot, value) in addends[self.number].0.iter().zip(values.iter()) {
            slot.store(value.to_bits(), Ordering::Relaxed);
        }
        self.barrier();
        for (at, value) in values.iter_mut().enumerate() {
            *value = addends.iter().map(|member| f64::from_bits(member.0[at].load(Ordering::Relaxed))).sum();
        }
    }

    fn segment(&self, bytes: usize) -> Result<Segment, NoMemory> {
        let mut segments = self.common.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if segments.len() as u64 == asked {
            let piece = |memory| Piece { bytes, area: Arc::new(Area::new(memory)) };
            segments.push(Private::new(bytes).map(piece));
        }
        let piece = usize::try_from(asked).ok().and_then(|asked| segments.get(asked).cloned());
        let Some(piece) = piece else { unreachable!("every earlier segment is there") };
        let Piece { bytes: given, area } = piece?;
        assert_eq!(given, bytes, "members do not ask for the same segments");
        Ok(Segment { area, member: self.number, passed: Arc::clone(&self.passed) })
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        // The others would wait for this one for ever.
        if std::thread::panicking() {
            self.common.barrier.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_meet_and_see_what_all_have_written() {
        for members in 1..5 {
            let seen = run(members, |team| {
                let array = team.array::<u64>(100).unwrap();
                for round in 1..50 {
                    let mine = team.share(100);
                    for (at, element) in mine.clone().zip(array.write(mine).iter_mut()) {
                        *element += round * at as u64;
                    }
                    team.barrier();
                    let expected = (1..=round).sum::<u64>() * 4950;
                    assert_eq!(array.read_all().iter().sum::<u64>(), expected);
                    team.barrier();
                }
                team.members()
            });
            assert_eq!(seen.unwrap(), members);
        }
    }

    #[test]
    fn sums_are_the_same_for_all_also_right_after_each_other() {
        let sums = run(3, |team| {
            let mut last = 0.0;
            for round in 0..200 {
                let mine = f64::from(round) + [0.1, 0.2, 0.3][team.member()];
                if round % 3 == 0 {
                    team.barrier();
                }
                let mut sum = [mine, 1.0];
                team.sum(&mut sum);
                assert_eq!(sum[0], (f64::from(round) + 0.1) + (f64::from(round) + 0.2) + (f64::from(round) + 0.3));
                assert_eq!(sum[1], 3.0);
                last = sum[0];
            }
            last
        });
        assert!((sums.unwrap() - 597.6).abs() < 1e-9);
    }

    #[test]
    fn all_members_are_told_that_there_is_no_memory() {
        let told = run(2, |team| {
            let refused = team.array::<f64>(1 << 57).unwrap_err();
            assert!(team.array::<f64>(usize::MAX).is_err());
            // The team can go on.
            let array = team.array::<f64>(10).unwrap();
            team.barrier();
            (refused, array.len())
        });
        assert_eq!(told.unwrap(), (NoMemory { bytes: 1 << 60 }, 10));
    }

    #[test]
    fn a_missing_barrier_is_found() {
        let race = std::panic::catch_unwind(|| {
            run(2, |team| {
                let array = team.array::<u32>(8).unwrap();
                array.write(team.share(8)).fill(1);
                array.read_all().len()
            })
        });
        assert!(race.is_err());
    }
}
