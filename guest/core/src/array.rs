//! Arrays in relaxed memory.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::memory::Mapping;

mod sealed {
    pub trait Sealed {}
}

/// What arrays and reductions are made of: integers and floating-point numbers of up to 8 bytes. All zero bytes are the number 0.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// Reads one that other threads may be writing.
    #[doc(hidden)]
    fn load(at: NonNull<Self>) -> Self;
    /// Writes one that other threads may be reading.
    #[doc(hidden)]
    fn store(at: NonNull<Self>, value: Self);
    /// The number's bytes, and zeroes.
    #[doc(hidden)]
    fn to_word(self) -> u64;
    /// The number of these bytes.
    #[doc(hidden)]
    fn from_word(word: u64) -> Self;
}

macro_rules! element {
    ($($number:ty, $bits:ty, $atomic:ty;)*) => {$(
        impl sealed::Sealed for $number {}
        impl Element for $number {
            fn load(at: NonNull<Self>) -> Self {
                // SAFETY: an array's elements are mapped, aligned, and accessed by atomics while they are shared.
                let atomic = unsafe { <$atomic>::from_ptr(at.as_ptr().cast()) };
                <$number>::from_ne_bytes(atomic.load(Ordering::Relaxed).to_ne_bytes())
            }

            fn store(at: NonNull<Self>, value: Self) {
                // SAFETY: as above.
                let atomic = unsafe { <$atomic>::from_ptr(at.as_ptr().cast()) };
                atomic.store(<$bits>::from_ne_bytes(value.to_ne_bytes()), Ordering::Relaxed);
            }

            fn to_word(self) -> u64 {
                u64::from(<$bits>::from_ne_bytes(self.to_ne_bytes()))
            }

            fn from_word(word: u64) -> Self {
                let mut bytes = [0; size_of::<$number>()];
                bytes.copy_from_slice(&word.to_le_bytes()[..size_of::<$number>()]);
                <$number>::from_le_bytes(bytes)
            }
        }
    )*};
}

element! {
    u8, u8, AtomicU8;
    u16, u16, AtomicU16;
    u32, u32, AtomicU32;
    u64, u64, AtomicU64;
    i8, u8, AtomicU8;
    i16, u16, AtomicU16;
    i32, u32, AtomicU32;
    i64, u64, AtomicU64;
    f32, u32, AtomicU32;
    f64, u64, AtomicU64;
}

/// An array in relaxed memory. Members of a team share it by reference; they see each other's elements by the rules of
/// [the crate](crate), and never half of one.
#[derive(Debug)]
pub struct Array<T> {
    #[expect(dead_code, reason = "keeps the memory mapped")]
    mapping: Arc<Mapping>,
    start: NonNull<T>,
    len: usize,
    elements: PhantomData<T>,
}

// SAFETY: it owns its piece of the mapping.
unsafe impl<T: Element> Send for Array<T> {}
// SAFETY: by reference elements are accessed by atomics alone.
unsafe impl<T: Element> Sync for Array<T> {}

impl<T: Element> Array<T> {
    /// `len` elements at `start`, a piece of the mapping that nobody else has.
    pub(crate) fn new(mapping: Arc<Mapping>, start: NonNull<T>, len: usize) -> Self {
        Self { mapping, start, len, elements: PhantomData }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element of this index.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn get(&self, index: usize) -> T {
        T::load(self.at(index))
    }

    /// Changes the element of this index.
    ///
    /// # Panics
    /// When there is none.
    pub fn set(&self, index: usize, value: T) {
        T::store(self.at(index), value);
    }

    fn at(&self, index: usize) -> NonNull<T> {
        assert!(index < self.len, "index {index} of an array of {}", self.len);
        // SAFETY: it is an element of the array.
        unsafe { self.start.add(index) }
    }

    /// All elements, for one who has the array alone; [`crate::Team::for_each_part`] gives each member a part of them.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: the elements are mapped as long as the array is there, aligned, and any bytes are a number; the
        // exclusive borrow keeps everybody else away.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Relaxed;

    fn round<T: Element + PartialEq + std::fmt::Debug>(values: [T; 3]) {
        let mut array = Relaxed::ordinary(4096).unwrap().array::<T>(3).unwrap();
        for (index, value) in values.into_iter().enumerate() {
            array.set(index, value);
            assert_eq!(T::from_word(value.to_word()), value);
        }
        assert_eq!([array.get(0), array.get(1), array.get(2)], values);
        assert_eq!(array.as_mut_slice(), values);
    }

    #[test]
    fn every_kind_of_number_is_read_as_it_was_written() {
        round([0, 1, u8::MAX]);
        round([0, 1, u16::MAX]);
        round([0, 1, u32::MAX]);
        round([0, 1, u64::MAX]);
        round([i8::MIN, -1, i8::MAX]);
        round([i16::MIN, -1, i16::MAX]);
        round([i32::MIN, -1, i32::MAX]);
        round([i64::MIN, -1, i64::MAX]);
        round([f32::MIN, -0.5, f32::INFINITY]);
        round([f64::MIN, -0.5, f64::INFINITY]);
    }

    #[test]
    #[should_panic(expected = "index 3 of an array of 3")]
    fn an_index_behind_the_end_is_a_mistake_of_the_caller() {
        let _ = Relaxed::ordinary(4096).unwrap().array::<u8>(3).unwrap().get(3);
    }
}
