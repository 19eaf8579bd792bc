//! Memory for programs, and the functions that the compiler calls for copies, fills and comparisons.

use core::arch::asm;
use core::slice;
use core::sync::atomic::AtomicU64;

use vincs_micro_guest_payload::protocol::{REGION_BASE, REGION_END};

use crate::report;

/// An address that the guest does not map.
pub(crate) const UNMAPPED: usize = REGION_END;

/// Memory of this many words from `first` on (in words from the start of the region), to be shared by processors.
pub(crate) fn shared(first: usize, words: usize) -> &'static [AtomicU64] {
    let start = address(first, words) as *const AtomicU64;
    // SAFETY: the region holds plain memory that is used through this function and `exclusive` only; any bits are a word.
    unsafe { slice::from_raw_parts(start, words) }
}

/// The same memory for one processor alone.
///
/// # Safety
/// Nothing else uses these words as long as the result lives.
pub(crate) unsafe fn exclusive(first: usize, words: usize) -> &'static mut [u64] {
    let start = address(first, words) as *mut u64;
    // SAFETY: as in `shared`, and the caller says that it is alone.
    unsafe { slice::from_raw_parts_mut(start, words) }
}

fn address(first: usize, words: usize) -> usize {
    let end =
        first.checked_add(words).and_then(|end| end.checked_mul(8)).and_then(|bytes| bytes.checked_add(REGION_BASE));
    if end.is_none_or(|end| end > REGION_END) {
        report::fail(format_args!("{words} words after {first} do not fit below {REGION_END:#x}; ask for less memory"));
    }
    REGION_BASE + first * 8
}

/// C's `memcpy`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller gives two ranges of `count` bytes.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags));
    }
    to
}

/// C's `memmove`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= count {
        // SAFETY: copying upwards does not overwrite what is still to be read.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: the caller gives two ranges of `count` bytes, and `count` is not zero here; copied downwards.
    unsafe {
        asm!(
            "lea rdi, [rdi + rcx - 1]", "lea rsi, [rsi + rcx - 1]", "std", "rep movsb", "cld",
            inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack),
        );
    }
    to
}

/// C's `memset`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller gives a range of `count` bytes.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("eax") value, options(nostack, preserves_flags));
    }
    to
}

/// C's `memcmp`.
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    let (mut left, mut right) = (left, right);
    for _ in 0..count {
        // SAFETY: the caller gives two ranges of `count` bytes; volatile, so that this is not compiled into a call of itself.
        let l = unsafe { left.read_volatile() };
        // SAFETY: as above.
        let r = unsafe { right.read_volatile() };
        if l != r {
            return i32::from(l) - i32::from(r);
        }
        left = left.wrapping_add(1);
        right = right.wrapping_add(1);
    }
    0
}

/// The C library's `bcmp`: only whether the ranges differ.
///
/// # Safety
/// As `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    // SAFETY: as the caller says.
    unsafe { memcmp(left, right, count) }
}
