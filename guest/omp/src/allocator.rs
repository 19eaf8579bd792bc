//! malloc and its like: what is large comes from relaxed memory, all else from the C library.
//!
//! Each function is two instructions that add its caller's address to the arguments: what libraries allocate for themselves is not for relaxed
//! memory.
//! The C library's own functions go by their second names, so that nothing has to be looked up before the first allocation.

use std::arch::naked_asm;
use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::ptr::{self, NonNull};

use crate::process::{self, Process, next, say};

unsafe extern "C" {
    fn __libc_malloc(bytes: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, bytes: usize) -> *mut c_void;
    fn __libc_realloc(piece: *mut c_void, bytes: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, bytes: usize) -> *mut c_void;
    fn __libc_free(piece: *mut c_void);
}

/// A piece of the C library's for this library itself, however large. It is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Ordinary(NonNull<c_void>);

impl Ordinary {
    /// Of so many bytes; nothing where there are none, which errno tells.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        // SAFETY: any number of bytes may be asked for.
        NonNull::new(unsafe { __libc_malloc(bytes) }).map(Self)
    }

    pub(crate) fn start(&self) -> *mut c_void {
        self.0.as_ptr()
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        // SAFETY: it is the C library's, and nobody else's.
        unsafe { __libc_free(self.0.as_ptr()) };
    }
}

macro_rules! with_caller {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) $register:literal $inner:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> *mut c_void {
            // The address that it returns to is on top of the stack; the register is that of the next argument (System V ABI, AMD64, 3.2).
            naked_asm!(concat!("mov ", $register, ", [rsp]"), "jmp {inner}", inner = sym $inner)
        }
    )*};
}

with_caller! {
    malloc(_bytes: usize) "rsi" allocate;
    calloc(_count: usize, _bytes: usize) "rdx" allocate_zeroed;
    realloc(_piece: *mut c_void, _bytes: usize) "rdx" change;
    aligned_alloc(_alignment: usize, _bytes: usize) "rdx" allocate_aligned;
    memalign(_alignment: usize, _bytes: usize) "rdx" allocate_aligned;
    reallocarray(_piece: *mut c_void, _count: usize, _bytes: usize) "rcx" change_array;
}

/// As [`allocate_aligned`], with its result and errors in other places.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(_piece: *mut *mut c_void, _alignment: usize, _bytes: usize) -> c_int {
    naked_asm!("mov rcx, [rsp]", "jmp {inner}", inner = sym allocate_aligned_into)
}

/// A piece of relaxed memory, if that is where it belongs and there is one.
fn large(bytes: usize, alignment: usize, zeroed: bool, caller: usize) -> *mut c_void {
    let process = process::get().filter(|process| process.is_large(bytes, caller));
    let piece = process.and_then(|process| process.allocate(bytes, alignment, zeroed));
    piece.map_or(ptr::null_mut(), |piece| piece.as_ptr().cast())
}

/// The piece, and the process that has it in relaxed memory; none for one of the C library's.
fn relaxed(piece: *mut c_void) -> Option<(&'static Process, NonNull<u8>)> {
    let process = process::get().filter(|process| process.has(piece.addr()))?;
    Some((process, NonNull::new(piece.cast())?))
}

unsafe extern "C" fn allocate(bytes: usize, caller: usize) -> *mut c_void {
    let piece = large(bytes, 1, false, caller);
    if !piece.is_null() {
        return piece;
    }
    // SAFETY: any number of bytes may be asked for.
    unsafe { __libc_malloc(bytes) }
}

unsafe extern "C" fn allocate_zeroed(count: usize, bytes: usize, caller: usize) -> *mut c_void {
    let piece = large(count.checked_mul(bytes).unwrap_or(0), 1, true, caller);
    if !piece.is_null() {
        return piece;
    }
    // SAFETY: as above; what cannot be counted is refused.
    unsafe { __libc_calloc(count, bytes) }
}

unsafe extern "C" fn allocate_aligned(alignment: usize, bytes: usize, caller: usize) -> *mut c_void {
    let piece = if alignment.is_power_of_two() { large(bytes, alignment, false, caller) } else { ptr::null_mut() };
    if !piece.is_null() {
        return piece;
    }
    // SAFETY: as above; it knows what to do with other alignments.
    unsafe { __libc_memalign(alignment, bytes) }
}

/// posix_memalign(3).
unsafe extern "C" fn allocate_aligned_into(
    place: *mut *mut c_void,
    alignment: usize,
    bytes: usize,
    caller: usize,
) -> c_int {
    if !alignment.is_power_of_two() || !alignment.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    // SAFETY: the alignment is one.
    let piece = unsafe { allocate_aligned(alignment, bytes, caller) };
    if piece.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's place for it.
    unsafe { place.write(piece) };
    0
}

/// realloc(3).
unsafe extern "C" fn change(piece: *mut c_void, bytes: usize, caller: usize) -> *mut c_void {
    let Some((process, start)) = relaxed(piece) else {
        // SAFETY: the caller's piece is null or the C library's.
        return unsafe { change_ordinary(piece, bytes, caller) };
    };
    let there = size_in(process, start);
    if bytes == 0 {
        // SAFETY: the caller gives it back.
        unsafe { free(piece) };
        return ptr::null_mut();
    }
    if bytes <= there && bytes > there / 2 && process.is_large(bytes, caller) {
        return piece;
    }
    // SAFETY: any number of bytes may be asked for.
    let new = unsafe { allocate(bytes, caller) };
    if !new.is_null() {
        // SAFETY: two pieces, each at least so long.
        unsafe { new.copy_from_nonoverlapping(piece, bytes.min(there)) };
        // SAFETY: the caller gives it back.
        unsafe { free(piece) };
    }
    new
}

/// reallocarray(3).
unsafe extern "C" fn change_array(piece: *mut c_void, count: usize, bytes: usize, caller: usize) -> *mut c_void {
    // As many as nobody has.
    let bytes = count.saturating_mul(bytes);
    // SAFETY: as of the caller.
    unsafe { change(piece, bytes, caller) }
}

/// The same as [`change`] for a piece of the C library's, which may become one in relaxed memory.
unsafe fn change_ordinary(piece: *mut c_void, bytes: usize, caller: usize) -> *mut c_void {
    let new = large(bytes, 1, false, caller);
    if new.is_null() {
        // SAFETY: the piece is null or the C library's.
        return unsafe { __libc_realloc(piece, bytes) };
    }
    // SAFETY: as above.
    let there = unsafe { malloc_usable_size(piece) };
    // SAFETY: two pieces, each at least so long; none of null.
    unsafe { new.copy_from_nonoverlapping(piece, bytes.min(there)) };
    // SAFETY: the caller gives it back.
    unsafe { __libc_free(piece) };
    new
}

/// How many bytes can be read from there on: the piece's, or, in a child, what it may have at most.
fn size_in(process: &Process, piece: NonNull<u8>) -> usize {
    if process.is_forked() {
        let memory = process.heap.memory();
        return memory.addr().get() + memory.len() - piece.addr().get();
    }
    process.heap.size_of(piece).unwrap_or_else(|| not_a_piece(piece))
}

/// The same as the C library does.
fn not_a_piece(piece: NonNull<u8>) -> ! {
    say(&format!("{piece:p} is given back or changed, but is no piece of memory that has been given out"));
    std::process::abort()
}

/// free(3). It leaves errno alone.
#[unsafe(no_mangle)]
unsafe extern "C" fn free(piece: *mut c_void) {
    let Some((process, start)) = relaxed(piece) else {
        // SAFETY: the caller's piece is null or the C library's.
        return unsafe { __libc_free(piece) };
    };
    if process.is_forked() {
        // The books are the parent's; the memory goes with the process.
        return;
    }
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    // SAFETY: the caller does not use it any more.
    if !unsafe { process.free(start) } {
        not_a_piece(start);
    }
    // SAFETY: it is this thread's own.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { place.write(errno) };
}

/// malloc_usable_size(3). In a child nothing is known of what its parent has in relaxed memory.
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_usable_size(piece: *mut c_void) -> usize {
    match relaxed(piece) {
        Some((process, _)) if process.is_forked() => 0,
        Some((process, start)) => size_in(process, start),
        None => {
            let next = next!(malloc_usable_size, unsafe extern "C" fn(*mut c_void) -> usize);
            // SAFETY: the caller's piece is null or the C library's.
            unsafe { next(piece) }
        }
    }
}
