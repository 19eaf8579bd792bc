//! Relaxed memory in pieces that can be given back and come again.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use rustix::mm::{Advice, madvise};

use crate::Relaxed;
use crate::memory::PAGE;

/// All relaxed memory that was left, given out in whole pages: two pieces never share one. What is known of the pieces is in ordinary memory.
#[derive(Debug)]
pub struct Heap {
    relaxed: Relaxed,
    memory: NonNull<[u8]>,
    books: Mutex<Books>,
}

// SAFETY: it has its memory alone, and gives each piece of it to one caller.
unsafe impl Send for Heap {}
// SAFETY: as above; the books are behind a lock.
unsafe impl Sync for Heap {}

/// Page of the heap, from 0, and how many from there on.
type Pieces = BTreeMap<usize, usize>;

#[derive(Debug)]
struct Books {
    free: Pieces,
    given: Pieces,
}

impl Heap {
    /// A heap of all that is left.
    #[must_use]
    pub fn new(relaxed: Relaxed) -> Self {
        let memory = relaxed.rest();
        let free = Pieces::from([(0, memory.len() / PAGE)]);
        Self { relaxed, memory, books: Mutex::new(Books { free, given: Pieces::new() }) }
    }

    /// The memory that it is of.
    #[must_use]
    pub fn relaxed(&self) -> &Relaxed {
        &self.relaxed
    }

    /// The memory itself, given out or not.
    #[must_use]
    pub fn memory(&self) -> NonNull<[u8]> {
        self.memory
    }

    /// So many bytes at a multiple of `alignment`, a power of two; none when they are not there in one piece. What is in them is left open.
    /// They are the first that fit.
    #[must_use]
    pub fn allocate(&self, bytes: usize, alignment: usize) -> Option<NonNull<u8>> {
        let pages = bytes.max(1).checked_next_multiple_of(PAGE)? / PAGE;
        let page = self.with_books(|books| books.take(pages, |page| self.aligned(page, alignment)))?;
        // Who had the piece before has released it.
        self.relaxed.acquire();
        // SAFETY: the page is of the heap's memory.
        Some(unsafe { self.memory.cast::<u8>().add(page * PAGE) })
    }

    /// The same, all zeroes.
    #[must_use]
    pub fn allocate_zeroed(&self, bytes: usize, alignment: usize) -> Option<NonNull<u8>> {
        let piece = self.allocate(bytes, alignment)?;
        if self.relaxed.is_device() {
            // SAFETY: the piece is the caller's, and so long.
            unsafe { self.relaxed.clear(piece, bytes) };
        }
        // Ordinary memory is zero: what is given back goes back to the kernel.
        Some(piece)
    }

    /// Takes a piece back. False for what is none.
    ///
    /// # Safety
    /// Nobody uses the piece any more.
    pub unsafe fn free(&self, piece: NonNull<u8>) -> bool {
        let Some(page) = self.page_of(piece) else { return false };
        let Some(pages) = self.with_books(|books| books.given.remove(&page)) else { return false };
        if !self.relaxed.is_device() {
            // SAFETY: the pages are the piece's, which nobody uses; they read as zeroes after.
            let dropped = unsafe { madvise(piece.as_ptr().cast(), pages * PAGE, Advice::LinuxDontNeed) };
            if dropped.is_err() {
                // A program that locks its memory keeps the pages.
                // SAFETY: as before.
                unsafe { piece.write_bytes(0, pages * PAGE) };
            }
        }
        // What was written here must not come after what the next one writes.
        self.relaxed.release();
        self.with_books(|books| books.put(page, pages));
        true
    }

    /// How many bytes a piece has, whole pages; none for what is no piece.
    #[must_use]
    pub fn size_of(&self, piece: NonNull<u8>) -> Option<usize> {
        let page = self.page_of(piece)?;
        self.with_books(|books| books.given.get(&page).map(|pages| pages * PAGE))
    }

    /// The least page from this one on that is aligned so.
    fn aligned(&self, page: usize, alignment: usize) -> Option<usize> {
        let start = self.memory.addr().get();
        let at = (start + page * PAGE).checked_next_multiple_of(alignment.max(PAGE))?;
        Some((at - start) / PAGE)
    }

    fn page_of(&self, piece: NonNull<u8>) -> Option<usize> {
        let from_start = piece.addr().get().checked_sub(self.memory.addr().get())?;
        (from_start < self.memory.len() && from_start.is_multiple_of(PAGE)).then_some(from_start / PAGE)
    }

    fn with_books<T>(&self, change: impl FnOnce(&mut Books) -> T) -> T {
        change(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Books {
    /// Gives out the first piece that is large enough from its first aligned page on.
    fn take(&mut self, pages: usize, aligned: impl Fn(usize) -> Option<usize>) -> Option<usize> {
        let fits = |(&free, &length): (&usize, &usize)| {
            let page = aligned(free)?;
            (page.checked_add(pages)? <= free + length).then_some((free, length, page))
        };
        let (free, length, page) = self.free.iter().find_map(fits)?;
        self.free.remove(&free);
        for (start, end) in [(free, page), (page + pages, free + length)] {
            if start < end {
                self.free.insert(start, end - start);
            }
        }
        self.given.insert(page, pages);
        Some(page)
    }

    /// Adds pages to the free ones, as one piece with those before and after them.
    fn put(&mut self, page: usize, pages: usize) {
        let (mut start, mut end) = (page, page + pages);
        let before = self.free.range(..page).next_back().map(|(at, length)| (*at, at + length));
        if let Some((at, _)) = before.filter(|(_, until)| *until == page) {
            self.free.remove(&at);
            start = at;
        }
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        self.free.insert(start, end - start);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::CONTROL_BYTES;

    const PAGES: usize = 64;

    /// A heap of [`PAGES`] pages, of a file that is full of sevens, or of ordinary memory.
    fn heap(device: bool) -> Heap {
        if !device {
            return Heap::new(Relaxed::ordinary(PAGES * PAGE).unwrap());
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; CONTROL_BYTES + PAGES * PAGE]).unwrap();
        Heap::new(Relaxed::open_device(file.path()).unwrap())
    }

    fn bytes(piece: NonNull<u8>, len: usize) -> &'static mut [u8] {
        // SAFETY: the test uses its pieces one after the other, while the heap is there.
        unsafe { std::slice::from_raw_parts_mut(piece.as_ptr(), len) }
    }

    /// One who allocates so many bytes, aligned so, zeroes or not; or gives a piece back, by its place among those there are.
    #[derive(Clone, Debug)]
    enum Step {
        Allocate { bytes: usize, alignment: usize, zeroed: bool },
        Free(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let allocate = (0..12 * PAGE, 0u32..16, any::<bool>());
        let allocate =
            allocate.prop_map(|(bytes, power, zeroed)| Step::Allocate { bytes, alignment: 1 << power, zeroed });
        prop_oneof![allocate, any::<usize>().prop_map(Step::Free)]
    }

    proptest! {
        #[test]
        fn pieces_are_apart_keep_what_is_in_them_and_come_again(
            device in any::<bool>(), steps in prop::collection::vec(step(), 1..60),
        ) {
            let heap = heap(device);
            let mut pieces: Vec<(NonNull<u8>, usize, u8)> = Vec::new();
            for (mark, step) in (1u8..).zip(steps) {
                match step {
                    Step::Allocate { bytes: len, alignment, zeroed } => {
                        let piece = if zeroed { heap.allocate_zeroed(len, alignment) } else { heap.allocate(len, alignment) };
                        let Some(piece) = piece else { continue };
                        prop_assert!(piece.addr().get().is_multiple_of(alignment));
                        prop_assert!(!zeroed || bytes(piece, len).iter().all(|byte| *byte == 0));
                        prop_assert_eq!(heap.size_of(piece), Some(len.max(1).next_multiple_of(PAGE)));
                        bytes(piece, len).fill(mark);
                        pieces.push((piece, len, mark));
                    }
                    Step::Free(place) if !pieces.is_empty() => {
                        let (piece, len, mark) = pieces.swap_remove(place % pieces.len());
                        prop_assert!(bytes(piece, len).iter().all(|byte| *byte == mark));
                        // SAFETY: it is not used any more.
                        let freed = unsafe { heap.free(piece) };
                        prop_assert!(freed);
                    }
                    Step::Free(_) => {}
                }
            }
            for (piece, len, mark) in pieces {
                prop_assert!(bytes(piece, len).iter().all(|byte| *byte == mark));
                // SAFETY: it is not used any more.
                let freed = unsafe { heap.free(piece) };
                prop_assert!(freed);
            }
            prop_assert!(heap.allocate(PAGES * PAGE, 1).is_some(), "all of it is one piece again");
        }
    }

    #[test]
    fn all_of_it_can_be_had_and_no_more() {
        let heap = heap(true);
        assert_eq!(heap.relaxed().left(), 0);
        assert_eq!(heap.allocate(PAGES * PAGE + 1, 1), None);
        assert_eq!(heap.allocate(usize::MAX, 1), None);
        assert_eq!(heap.allocate(1, 1 << 63), None, "no address is aligned so");
        let all = heap.allocate(PAGES * PAGE, 1).unwrap();
        assert_eq!(heap.allocate(0, 1), None);
        // SAFETY: it is not used any more; the second time there is nothing.
        let freed = [(), ()].map(|()| unsafe { heap.free(all) });
        assert_eq!(freed, [true, false], "it cannot be given back twice");
    }

    #[test]
    fn what_is_no_piece_is_left_alone() {
        let heap = heap(false);
        let piece = heap.allocate(3 * PAGE, 1).unwrap();
        // SAFETY: within the piece.
        let inside = [1, PAGE].map(|bytes| unsafe { piece.add(bytes) });
        for other in [NonNull::from(&0), inside[0], inside[1]] {
            assert_eq!(heap.size_of(other), None);
            // SAFETY: it is nobody's piece.
            assert!(!unsafe { heap.free(other) });
        }
        assert_eq!(heap.size_of(piece), Some(3 * PAGE));
    }
}
