//! Arrays that all members of a team see.
//!
//! All unsafe code of this crate is here. What makes it sound: slices of a segment are only handed out to the holder of a claim on
//! their bytes, [`Claims`] never let claims for writing overlap others, and a claim ends when the slice's guard is dropped. The
//! table of claims is behind a lock, so what one holder did is seen by the next.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use vincs_vmm::memory::GuestRam;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::NoMemory;
use super::claims::Claims;
use crate::complex::Complex;

/// Alignment of a segment: whole pages.
const PAGE_BYTES: usize = 4096;

/// What an array may hold.
///
/// # Safety
///
/// Every pattern of bits is a value, no byte of it is padding, it is not empty, and its alignment is at most a page's.
pub unsafe trait Element: Copy + Send + Sync + 'static {}

// SAFETY: a number: every pattern is a value.
unsafe impl Element for f64 {}
// SAFETY: a number: every pattern is a value.
unsafe impl Element for u32 {}
// SAFETY: a number: every pattern is a value.
unsafe impl Element for u64 {}
// SAFETY: two numbers without padding, as it is `repr(C)`.
unsafe impl Element for Complex {}
// SAFETY: adjacent elements without padding, and there is at least one.
unsafe impl<T: Element> Element for [T; 5] {}

/// Memory that members share.
///
/// # Safety
///
/// `start` is on a whole page and the first of `bytes` bytes that can be read and written as long as this lives, also when the value
/// is moved; nothing in this process touches them but through the one [`Area`] that the value is made into.
pub unsafe trait Memory: Send + Sync + fmt::Debug {
    /// Its first byte.
    fn start(&self) -> NonNull<u8>;

    /// How long it is.
    fn bytes(&self) -> usize;
}

/// Memory of this process alone. Its pages are given when they are first touched, so near to the thread that does.
#[derive(Debug)]
pub struct Private {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is plain memory, which no thread is tied to.
unsafe impl Send for Private {}
// SAFETY: itself it only tells where the memory is.
unsafe impl Sync for Private {}
// SAFETY: a mapping of its own, kept until the value is dropped, whose address is told to nobody else.
unsafe impl Memory for Private {
    fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Private {
    /// As many bytes, all zero.
    ///
    /// # Errors
    ///
    /// There are not as many.
    pub fn new(bytes: usize) -> Result<Self, NoMemory> {
        let no_memory = NoMemory { bytes };
        let len = bytes.max(1).checked_next_multiple_of(PAGE_BYTES).ok_or(no_memory)?;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: without an address given, a new mapping does not touch others.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, flags) };
        let start = start.ok().and_then(|start| NonNull::new(start.cast::<u8>())).ok_or(no_memory)?;
        Ok(Self { start, bytes: len })
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and guards keep the value alive.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast::<c_void>(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own");
    }
}

/// Memory that several ranks share: it is this process's own but where ranks synchronise.
#[derive(Debug)]
pub struct Distributed(vincs_vmm::memory::hlrc::Array);

impl From<vincs_vmm::memory::hlrc::Array> for Distributed {
    fn from(array: vincs_vmm::memory::hlrc::Array) -> Self {
        Self(array)
    }
}

// SAFETY: an array is on a whole page and keeps its addresses. It is moved into this value, so nothing else in this process has it, and other ranks' writes are
// taken over where members meet, when no slice of it is held that they are in.
unsafe impl Memory for Distributed {
    fn start(&self) -> NonNull<u8> {
        self.0.start()
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// All of the strict memory of ranks.
#[derive(Debug)]
pub struct Whole {
    start: NonNull<u8>,
    bytes: usize,
    /// Keeps the mapping.
    _ram: GuestRam,
}

// SAFETY: it is plain memory, which no thread is tied to.
unsafe impl Send for Whole {}
// SAFETY: as for `Send`; itself it gives words to be used atomically only.
unsafe impl Sync for Whole {}

impl Whole {
    /// That of this RAM, which begins at address 0.
    #[must_use]
    pub fn new(ram: GuestRam) -> Self {
        let region = ram.guest_mapping().iter().next();
        let (start, bytes) = region.map_or((NonNull::dangling(), 0), |region| {
            (NonNull::new(region.as_ptr()).unwrap_or(NonNull::dangling()), usize::try_from(region.len()).unwrap_or(0))
        });
        Self { start, bytes, _ram: ram }
    }

    /// A word of it, for the ranks' own needs: in no [`Part`].
    ///
    /// # Panics
    ///
    /// When there is no such word.
    #[must_use]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!((index + 1) * 8 <= self.bytes, "word {index} of {} bytes", self.bytes);
        // SAFETY: the word is in the memory.
        let word = unsafe { self.start.add(index * 8) }.cast::<AtomicU64>();
        // SAFETY: it is aligned, as the memory is on a whole page, and all accesses to it are atomic.
        unsafe { word.as_ref() }
    }
}

/// Some pages of strict memory.
#[derive(Debug)]
pub struct Part {
    whole: Arc<Whole>,
    at: usize,
    bytes: usize,
}

impl Part {
    /// These bytes, whole pages that nobody else is given; nothing if there are not as many.
    #[must_use]
    pub fn new(whole: Arc<Whole>, at: usize, bytes: usize) -> Option<Self> {
        let fits = at.checked_add(bytes).is_some_and(|end| end <= whole.bytes);
        fits.then_some(Self { whole, at, bytes })
    }
}

// SAFETY: a page of the RAM, which this keeps. Nothing else in this process is given these bytes, and what other ranks write comes by the memory's coherence.
unsafe impl Memory for Part {
    fn start(&self) -> NonNull<u8> {
        // SAFETY: it was checked that these bytes are in the memory.
        unsafe { self.whole.start.add(self.at) }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Memory and who touches it: one table for all members, those that share the process at least.
#[derive(Debug)]
pub struct Area {
    memory: Box<dyn Memory>,
    claims: Claims,
}

impl Area {
    /// An area of this memory.
    #[must_use]
    pub fn new(memory: impl Memory + 'static) -> Self {
        Self { memory: Box::new(memory), claims: Claims::default() }
    }
}

/// An area as one member sees it.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The area.
    pub area: Arc<Area>,
    /// The member.
    pub member: usize,
    /// How many barriers it has passed.
    pub passed: Arc<AtomicU64>,
}

/// An array as one member sees it.
#[derive(Debug)]
pub struct Shared<T> {
    segment: Segment,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Shared<T> {
    /// # Panics
    ///
    /// When the segment is too short.
    pub(super) fn new(segment: Segment, len: usize) -> Self {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= PAGE_BYTES) };
        assert!(len <= segment.area.memory.bytes() / size_of::<T>(), "a segment that is too short");
        Self { segment, len, element: PhantomData }
    }

    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// These elements, to be read.
    ///
    /// # Panics
    ///
    /// When the kernel is wrong: not all of them are in the array, or they are being written (see [`Claims`]).
    #[must_use]
    pub fn read(&self, elements: Range<usize>) -> Reading<'_, T> {
        let claim = self.claim(elements);
        let Segment { area, member, passed } = &self.segment;
        if !claim.bytes.is_empty() {
            area.claims.read(*member, passed.load(Ordering::Relaxed), &claim.bytes);
        }
        Reading(claim)
    }

    /// All elements, to be read.
    #[must_use]
    pub fn read_all(&self) -> Reading<'_, T> {
        self.read(0..self.len)
    }

    /// These elements, to be written.
    ///
    /// # Panics
    ///
    /// When the kernel is wrong: not all of them are in the array, or they are in use (see [`Claims`]).
    #[must_use]
    pub fn write(&self, elements: Range<usize>) -> Writing<'_, T> {
        let claim = self.claim(elements);
        let Segment { area, member, passed } = &self.segment;
        if !claim.bytes.is_empty() {
            area.claims.write(*member, passed.load(Ordering::Relaxed), &claim.bytes);
        }
        Writing(claim)
    }

    fn claim(&self, elements: Range<usize>) -> Claim<'_, T> {
        assert!(elements.start <= elements.end && elements.end <= self.len, "{elements:?} of an array of {}", self.len);
        let bytes = elements.start * size_of::<T>()..elements.end * size_of::<T>();
        Claim { segment: &self.segment, bytes, element: PhantomData }
    }
}

/// Bytes of a segment that are inside of it and begin and end with an element.
#[derive(Debug)]
struct Claim<'a, T> {
    segment: &'a Segment,
    bytes: Range<usize>,
    element: PhantomData<T>,
}

impl<T> Claim<'_, T> {
    fn start(&self) -> NonNull<T> {
        // SAFETY: it was checked that these bytes are in the array, and so in the segment.
        unsafe { self.segment.area.memory.start().add(self.bytes.start) }.cast()
    }

    fn len(&self) -> usize {
        self.bytes.len() / size_of::<T>()
    }
}

/// Elements of an array that can be read. They are free when this is dropped.
#[derive(Debug)]
pub struct Reading<'a, T: Element>(Claim<'a, T>);

impl<T: Element> Deref for Reading<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: valid elements, as all bit patterns are, aligned since the segment is on a whole page; while the claim is held
        // nobody can claim them for writing.
        unsafe { slice::from_raw_parts(self.0.start().as_ptr(), self.0.len()) }
    }
}

impl<T: Element> Drop for Reading<'_, T> {
    fn drop(&mut self) {
        if !self.0.bytes.is_empty() {
            self.0.segment.area.claims.end_read(self.0.segment.member, &self.0.bytes);
        }
    }
}

/// Elements of an array that can be written. They are free when this is dropped.
#[derive(Debug)]
pub struct Writing<'a, T: Element>(Claim<'a, T>);

impl<T: Element> Deref for Writing<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: as for `Reading`; a claim for writing is the only one of its bytes.
        unsafe { slice::from_raw_parts(self.0.start().as_ptr(), self.0.len()) }
    }
}

impl<T: Element> DerefMut for Writing<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and this guard is borrowed for as long as the slice lives.
        unsafe { slice::from_raw_parts_mut(self.0.start().as_ptr(), self.0.len()) }
    }
}

impl<T: Element> Drop for Writing<'_, T> {
    fn drop(&mut self) {
        if !self.0.bytes.is_empty() {
            self.0.segment.area.claims.end_write(&self.0.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(len: usize) -> Shared<u32> {
        let area = Arc::new(Area::new(Private::new(len * 4).unwrap()));
        Shared::new(Segment { area, member: 0, passed: Arc::default() }, len)
    }

    #[test]
    fn an_array_is_zero_first_and_keeps_what_is_written() {
        let array = array(2000);
        assert!(array.read_all().iter().all(|element| *element == 0));
        array.write(1999..2000)[0] = 7;
        array.write(3..5).copy_from_slice(&[1, 2]);
        assert_eq!(array.read(2..6)[..], [0, 1, 2, 0]);
        assert_eq!(array.read(1999..2000)[..], [7]);
    }

    #[test]
    fn an_array_may_be_empty() {
        let array = array(0);
        assert!(array.is_empty() && array.read_all().is_empty() && array.write(0..0).is_empty());
    }

    #[test]
    #[should_panic(expected = "of an array of 10")]
    fn elements_behind_the_end_are_refused() {
        let _ = array(10).read(5..11);
    }

    #[test]
    #[should_panic(expected = "claimed some")]
    fn elements_that_are_being_read_cannot_be_written() {
        let array = array(10);
        let _reading = array.read(0..5);
        let _ = array.write(4..6);
    }

    #[test]
    fn more_memory_than_there_is_is_an_error() {
        assert_eq!(Private::new(usize::MAX).unwrap_err(), NoMemory { bytes: usize::MAX });
        assert!(Private::new(1 << 60).is_err());
    }
}
