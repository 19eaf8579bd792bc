//! A team in a guest of vincs: a thread on each processor, arrays in the machine's relaxed memory, which is coherent where the members meet.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vincs_guest_core::{Array, OpenError, RELAXED_VARIABLE, Relaxed, TeamError};

use super::shared::{Area, Memory, Segment};
use super::{MAX_SUM, NoMemory, Team};

/// Why there is no such team.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// There is no relaxed memory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There are no such threads.
    #[error(transparent)]
    Team(#[from] TeamError),
}

/// Whether this program has relaxed memory of a guest.
#[must_use]
pub fn is_there() -> bool {
    std::env::var_os(RELAXED_VARIABLE).is_some_and(|name| !name.is_empty())
}

/// What the members have in common.
#[derive(Debug)]
struct Common {
    relaxed: Relaxed,
    /// In the order in which they are asked for.
    segments: Mutex<Vec<Result<Piece, NoMemory>>>,
}

/// A piece of relaxed memory, kept as long as anybody has it.
#[derive(Clone, Debug)]
struct Piece {
    start: NonNull<u8>,
    bytes: usize,
    /// What was asked for.
    asked: usize,
    _array: Arc<Array<u8>>,
}

// SAFETY: it is plain memory, which no thread is tied to.
unsafe impl Send for Piece {}
// SAFETY: itself it only tells where the memory is.
unsafe impl Sync for Piece {}
// SAFETY: an array is on a whole page and is kept. Each member has an area of its own over it, as processes have; kernels' members touch no byte that another writes
// between two meetings, which the claims of threads and ranks hold them to.
unsafe impl Memory for Piece {
    fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// One thread's view.
#[derive(Debug)]
struct Member<'a> {
    common: &'a Common,
    member: &'a vincs_guest_core::Member,
    /// Barriers so far.
    passed: Arc<AtomicU64>,
    /// Segments asked for so far.
    asked: AtomicU64,
}

/// Runs `program` on `members` threads at once, one for each processor if nothing is said; gives their number, and what member 0's gave.
///
/// # Errors
///
/// There is no relaxed memory, or no such team.
pub fn run<R: Send>(
    members: Option<usize>,
    program: impl Fn(&dyn Team) -> R + Sync,
) -> Result<(usize, Option<R>), GuestError> {
    let common = Common { relaxed: Relaxed::open()?, segments: Mutex::new(Vec::new()) };
    let mut team = match members {
        Some(members) => vincs_guest_core::Team::new(u32::try_from(members).unwrap_or(u32::MAX))?,
        None => vincs_guest_core::Team::on_all_processors()?,
    };
    let result = Mutex::new(None);
    team.run(|member| {
        let given = program(&Member { common: &common, member, passed: Arc::default(), asked: AtomicU64::new(0) });
        if member.number() == 0 {
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(given);
        }
    });
    Ok((team.members() as usize, result.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

impl Common {
    fn allocate(&self, asked: usize) -> Result<Piece, NoMemory> {
        let mut array = self.relaxed.array::<u8>(asked.max(1)).map_err(|_| NoMemory { bytes: asked })?;
        let bytes = array.len();
        let start = NonNull::from(array.as_mut_slice()).cast();
        // The others are told that it is zero.
        self.relaxed.release();
        Ok(Piece { start, bytes, asked, _array: Arc::new(array) })
    }
}

impl Team for Member<'_> {
    fn member(&self) -> usize {
        self.member.number() as usize
    }

    fn members(&self) -> usize {
        self.member.members() as usize
    }

    fn barrier(&self) {
        self.member.barrier();
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self, values: &mut [f64]) {
        assert!(values.len() <= MAX_SUM, "{} values, at most {MAX_SUM}", values.len());
        if values.is_empty() {
            return self.barrier();
        }
        for value in values {
            *value = self.member.reduce(*value, |one, other| one + other);
        }
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    fn segment(&self, bytes: usize) -> Result<Segment, NoMemory> {
        let mut segments = self.common.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        if segments.len() as u64 == number {
            segments.push(self.common.allocate(bytes));
        }
        let piece = usize::try_from(number).ok().and_then(|number| segments.get(number).cloned());
        drop(segments);
        let Some(piece) = piece else { unreachable!("every earlier segment is there") };
        let piece = piece?;
        assert_eq!(piece.asked, bytes, "members do not ask for the same segments");
        self.common.relaxed.acquire();
        let area = Arc::new(Area::new(piece));
        Ok(Segment { area, member: self.member(), passed: Arc::clone(&self.passed) })
    }
}
