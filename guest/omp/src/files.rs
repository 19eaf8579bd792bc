//! Files that are read into large arrays and written from them, on several ranks.
//!
//! The guest's kernel has a device read and write a program's own memory where it can, and devices do not reach relaxed memory of several ranks. So what
//! programs call for files goes through a piece of ordinary memory there. What has to do with no relaxed memory is passed on as it is.

use std::ffi::{c_int, c_void};
use std::mem::transmute;

use libc::{FILE, iovec, off_t, size_t, ssize_t};

use crate::allocator::Ordinary;
use crate::process::{self, next};

/// Bytes that go through ordinary memory at a time: a few requests of a file system's.
const PIECE: usize = 1 << 20;

/// Whether devices do not reach what a program has there.
fn is_out_of_reach(memory: *const c_void) -> bool {
    process::get().is_some_and(|process| process.is_on_ranks() && process.has(memory.addr()))
}

/// What comes of so many bytes, [`PIECE`] at a time: as one call would, it stops at what comes short, and tells an error only if it is at the start.
fn in_pieces(bytes: usize, mut step: impl FnMut(&Ordinary, usize, usize) -> ssize_t) -> ssize_t {
    let Some(piece) = Ordinary::new(bytes.min(PIECE)) else { return -1 };
    let mut done = 0;
    while done < bytes {
        let len = PIECE.min(bytes - done);
        let result = step(&piece, done, len);
        let Ok(moved) = usize::try_from(result) else {
            if done == 0 {
                return result;
            }
            break;
        };
        done += moved;
        if moved < len {
            break;
        }
    }
    ssize_t::try_from(done).unwrap_or(ssize_t::MAX)
}

/// Reads into memory by a function that is given where to, how far from the start that is, and how many bytes.
///
/// # Safety
/// The memory has so many bytes, the caller's.
unsafe fn read_by(memory: *mut c_void, bytes: usize, read: impl Fn(*mut c_void, usize, usize) -> ssize_t) -> ssize_t {
    in_pieces(bytes, |piece, done, len| {
        let result = read(piece.start(), done, len);
        if let Ok(came) = usize::try_from(result) {
            // SAFETY: within the memory, as `done` and `len` are.
            let to = unsafe { memory.byte_add(done) };
            // SAFETY: no more has come than there is room for in both.
            unsafe { to.copy_from_nonoverlapping(piece.start(), came.min(len)) };
        }
        result
    })
}

/// The same for writing.
///
/// # Safety
/// As of [`read_by`].
unsafe fn write_by(
    memory: *const c_void,
    bytes: usize,
    write: impl Fn(*const c_void, usize, usize) -> ssize_t,
) -> ssize_t {
    in_pieces(bytes, |piece, done, len| {
        // SAFETY: within the memory, as `done` and `len` are.
        let from = unsafe { memory.byte_add(done) };
        // SAFETY: so many bytes are in both.
        unsafe { piece.start().copy_from_nonoverlapping(from, len) };
        write(piece.start(), done, len)
    })
}

/// A place in a file, so many bytes further on.
fn further(offset: off_t, bytes: usize) -> off_t {
    offset.saturating_add(off_t::try_from(bytes).unwrap_or(off_t::MAX))
}

/// Functions that read or write, and where in the file.
macro_rules! file_functions {
    ($by:ident $memory:ty: $($(#[$doc:meta])* $name:ident($($offset:ident)?);)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(file: c_int, memory: $memory, bytes: size_t $(, $offset: off_t)?) -> ssize_t {
            let next = next!($name, unsafe extern "C" fn(c_int, $memory, size_t $(, file_functions!(@type $offset))?) -> ssize_t);
            if bytes == 0 || !is_out_of_reach(memory) {
                // SAFETY: the arguments are those of who called it.
                return unsafe { next(file, memory, bytes $(, $offset)?) };
            }
            let step = |memory, done, len| {
                let _ = done;
                // SAFETY: the memory has room for so many bytes.
                unsafe { next(file, memory, len $(, further($offset, done))?) }
            };
            // SAFETY: the caller's memory, which has so many bytes.
            unsafe { $by(memory, bytes, step) }
        }
    )*};
    (@type $offset:ident) => { off_t };
}

file_functions! { read_by *mut c_void:
    /// read(2).
    read();
    /// pread(2).
    pread(offset);
    /// The same, as programs with large files call it.
    pread64(offset);
}

file_functions! { write_by *const c_void:
    /// write(2).
    write();
    /// pwrite(2).
    pwrite(offset);
    /// The same, as programs with large files call it.
    pwrite64(offset);
}

/// Functions for lists of pieces of memory: they go one by one where one of them is out of reach.
macro_rules! list_functions {
    ($($(#[$doc:meta])* $name:ident $each:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(file: c_int, list: *const iovec, count: c_int) -> ssize_t {
            let next = next!($name, unsafe extern "C" fn(c_int, *const iovec, c_int) -> ssize_t);
            let is_on_ranks = process::get().is_some_and(process::Process::is_on_ranks);
            let there = usize::try_from(count).ok().filter(|count| is_on_ranks && (1..=MOST_PIECES).contains(count));
            // SAFETY: the caller's list, which has so many entries.
            let pieces = there.map_or(&[][..], |count| unsafe { std::slice::from_raw_parts(list, count) });
            if !pieces.iter().any(|piece| is_out_of_reach(piece.iov_base)) {
                // SAFETY: the arguments are those of who called it.
                return unsafe { next(file, list, count) };
            }
            let mut done: ssize_t = 0;
            for piece in pieces.iter().filter(|piece| piece.iov_len > 0) {
                // SAFETY: the caller's memory, which has so many bytes.
                let result = unsafe { $each(file, piece.iov_base, piece.iov_len) };
                if result < 0 && done == 0 {
                    return result;
                }
                done = done.saturating_add(result.max(0));
                if usize::try_from(result).is_ok_and(|moved| moved == piece.iov_len) {
                    continue;
                }
                break;
            }
            done
        }
    )*};
}

/// More are refused by the kernel (IOV_MAX).
const MOST_PIECES: usize = 1024;

list_functions! {
    /// readv(2).
    readv read;
    /// writev(2).
    writev write;
}

/// Functions of streams.
macro_rules! stream_functions {
    ($($(#[$doc:meta])* $name:ident $by:ident $memory:ty;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(memory: $memory, size: size_t, count: size_t, stream: *mut FILE) -> size_t {
            let next = next!($name, unsafe extern "C" fn($memory, size_t, size_t, *mut FILE) -> size_t);
            let bytes = size.checked_mul(count).filter(|bytes| *bytes > 0 && is_out_of_reach(memory));
            let Some(bytes) = bytes else {
                // SAFETY: the arguments are those of who called it.
                return unsafe { next(memory, size, count, stream) };
            };
            let step = |memory, _, len| {
                // SAFETY: the memory has room for so many bytes.
                let moved = unsafe { next(memory, 1, len, stream) };
                ssize_t::try_from(moved).unwrap_or(ssize_t::MAX)
            };
            // Other threads' reads and writes do not come between its pieces.
            // SAFETY: the caller's stream.
            unsafe { flockfile(stream) };
            // SAFETY: the caller's memory, which has so many bytes.
            let moved = unsafe { $by(memory, bytes, step) };
            // SAFETY: it is this thread's.
            unsafe { funlockfile(stream) };
            usize::try_from(moved).unwrap_or(0) / size
        }
    )*};
}

unsafe extern "C" {
    fn flockfile(stream: *mut FILE);
    fn funlockfile(stream: *mut FILE);
}

stream_functions! {
    /// fread(3).
    fread read_by *mut c_void;
    /// fwrite(3).
    fwrite write_by *const c_void;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Bytes that are read in steps: so many come each time, at most, and then this.
    fn came(bytes: usize, file: &[u8], each: usize, last: ssize_t) -> (ssize_t, Vec<u8>) {
        let mut memory = vec![0; bytes];
        let read = |to: *mut c_void, done: usize, len: usize| {
            let there = &file[done.min(file.len())..];
            let count = there.len().min(len).min(each);
            if count == 0 {
                return last;
            }
            // SAFETY: there is room for `len`.
            unsafe { to.cast::<u8>().copy_from_nonoverlapping(there.as_ptr(), count) };
            ssize_t::try_from(count).unwrap()
        };
        // SAFETY: it has so many bytes.
        let result = unsafe { read_by(memory.as_mut_ptr().cast(), bytes, read) };
        (result, memory)
    }

    #[test]
    fn what_is_read_in_pieces_is_what_one_call_reads() {
        let file: Vec<u8> = (0..3 * PIECE + 5).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for bytes in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5] {
            let (result, memory) = came(bytes, &file, usize::MAX, 0);
            assert_eq!(result, ssize_t::try_from(bytes).unwrap());
            assert!(memory == file[..bytes]);
        }
        assert_eq!(came(2 * PIECE, &file[..PIECE + 7], usize::MAX, 0).0, ssize_t::try_from(PIECE).unwrap() + 7);
        assert_eq!(
            came(2 * PIECE, &file[..PIECE], usize::MAX, -1).0,
            ssize_t::try_from(PIECE).unwrap(),
            "an error comes next time"
        );
        assert_eq!(came(2 * PIECE, &file, 100, 0).0, 100, "as a pipe gives what it has");
        assert_eq!((came(8, &[], 8, -1).0, came(8, &[], 8, 0).0), (-1, 0));
    }

    #[test]
    fn what_is_written_in_pieces_is_all_of_it_in_order() {
        let memory: Vec<u8> = (0..2 * PIECE + 5).map(|at| u8::try_from(at % 241).unwrap()).collect();
        let file = RefCell::new(Vec::new());
        let write = |from: *const c_void, done: usize, len: usize| {
            assert_eq!(done, file.borrow().len());
            // SAFETY: it has so many bytes.
            file.borrow_mut().extend_from_slice(unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) });
            ssize_t::try_from(len).unwrap()
        };
        // SAFETY: it has so many bytes.
        let result = unsafe { write_by(memory.as_ptr().cast(), memory.len(), write) };
        assert_eq!(result, ssize_t::try_from(memory.len()).unwrap());
        assert!(file.into_inner() == memory);
        assert_eq!(further(off_t::MAX - 1, 5), off_t::MAX);
    }
}
