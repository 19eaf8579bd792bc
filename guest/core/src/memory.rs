//! The relaxed memory: a mapping of the device, or of ordinary memory, given out piece by piece.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use rustix::process::{Pid, getpid};
use vincs_guest_commands::{HEAR, RACE_CHECK_VARIABLE, TELL, WrongRaceCheck, race_check};

use crate::array::{Array, Element};
use crate::ranks::{Device, Ranks, eprint_line, reason};

/// Environment variable with the path of the machine's relaxed memory. vincs sets it for the command of a machine that has some.
pub const RELAXED_VARIABLE: &str = "VINCS_RELAXED";

/// Bytes at the start of a device that no array gets: kept for vincs's own dealings with the program (its doorbell and a page of commands for
/// each processor).
pub const CONTROL_BYTES: usize = 2 << 20;

/// Arrays start at multiples of this: pages are what moves between ranks, and two arrays never share one.
pub(crate) const PAGE: usize = 4096;

/// Why relaxed memory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device cannot be opened or asked for its size.
    #[error("relaxed memory {} cannot be opened: {source}; check {RELAXED_VARIABLE}, or unset it to do without", path.display())]
    Device {
        /// What the variable names.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another program has it: both would give out the same memory.
    #[error("relaxed memory {} is in use by another program; run one at a time", .0.display())]
    InUse(PathBuf),
    /// It is too small to hold anything.
    #[error("relaxed memory {} has {bytes} bytes, of which the first {CONTROL_BYTES} are vincs's own; give more with --relaxed", path.display())]
    TooSmall {
        /// What the variable names.
        path: PathBuf,
        /// Its size.
        bytes: usize,
    },
    /// A thread cannot be on the processor that it has to look from.
    #[error(
        "relaxed memory on several ranks: a thread cannot be put on a processor: {0}; see what may be used with taskset -p"
    )]
    Processor(io::Error),
    /// The machine's processors do not come to rest.
    #[error(
        "relaxed memory on several ranks: the machine's processors are not all in their places after {0} s; see vincs ctl status"
    )]
    Unsettled(u64),
    /// vincs refuses.
    #[error("relaxed memory on several ranks cannot be had: {}", reason(*.0))]
    Refused(u32),
    /// The variable of races makes no sense.
    #[error(transparent)]
    RaceCheck(#[from] WrongRaceCheck),
    /// The kernel refuses a mapping.
    #[error("{bytes} bytes of relaxed memory cannot be mapped: {source}; raise the limit on address space (ulimit -v)")]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// There is not so much relaxed memory left.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("out of relaxed memory: {asked} bytes asked for, {left} left; give more with --relaxed")]
pub struct OutOfRelaxed {
    /// Bytes asked for; `usize::MAX` when they are more than can be counted.
    pub asked: usize,
    /// Bytes there are still, in one piece.
    pub left: usize,
}

/// The relaxed memory of the machine, as this process has it. It is given back when this and all arrays are gone.
#[derive(Debug)]
pub struct Relaxed(Arc<Mapping>);

/// A mapping that arrays keep alive.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// Bytes given out from the start.
    used: AtomicUsize,
    /// Its lock says that the device is in use.
    device: Option<Arc<Device>>,
    /// The process that has mapped it: a device's memory is not there in children that it forks.
    process: Pid,
}

// SAFETY: the mapping stays where it is until it is dropped, on whatever thread; what is given out of it is given once.
unsafe impl Send for Mapping {}
// SAFETY: as above; giving out is atomic.
unsafe impl Sync for Mapping {}

impl Relaxed {
    /// The device that [`RELAXED_VARIABLE`] names; ordinary memory, as much as the machine has, when it is not set or empty.
    ///
    /// # Errors
    /// [`OpenError`]: a device that is named must be there, and nobody else's.
    pub fn open() -> Result<Self, OpenError> {
        let asks = race_check(std::env::var_os(RACE_CHECK_VARIABLE))?;
        let relaxed = Self::open_named(std::env::var_os(RELAXED_VARIABLE))?;
        if asks && !relaxed.looks_for_races() {
            let why = if relaxed.is_on_ranks() {
                "vincs was started without it, set it there"
            } else {
                "this memory is of one rank, and ranks are compared"
            };
            eprint_line(&format!("{RACE_CHECK_VARIABLE}=1: no races are looked for: {why}"));
        }
        Ok(relaxed)
    }

    fn open_named(name: Option<OsString>) -> Result<Self, OpenError> {
        match name.filter(|name| !name.is_empty()) {
            Some(path) => Self::open_device(Path::new(&path)),
            None => Self::ordinary(usize::try_from(rustix::system::sysinfo().totalram).unwrap_or(usize::MAX)),
        }
    }

    /// The device, or a file, of this path. A file's size is a multiple of 4096.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_device(path: &Path) -> Result<Self, OpenError> {
        let device = Device::open(path)?;
        if device.taken.swap(true, Ordering::Acquire) {
            return Err(OpenError::InUse(path.to_owned()));
        }
        let failed = |source| OpenError::Device { path: path.to_owned(), source };
        let bytes = size_of_device(&device.file).map_err(failed)? / PAGE * PAGE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe {
            mmap(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &device.file, 0)
        };
        Self::new(start, bytes, CONTROL_BYTES, Some(Arc::clone(&device)))
            .inspect_err(|_| device.taken.store(false, Ordering::Release))
    }

    /// Ordinary memory of so many bytes, of which nothing is resident until it is touched.
    ///
    /// # Errors
    /// [`OpenError::Map`].
    pub fn ordinary(bytes: usize) -> Result<Self, OpenError> {
        let bytes = bytes.max(PAGE);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags) };
        Self::new(start, bytes, 0, None)
    }

    fn new(
        start: rustix::io::Result<*mut std::ffi::c_void>,
        len: usize,
        used: usize,
        device: Option<Arc<Device>>,
    ) -> Result<Self, OpenError> {
        let failed = |errno: rustix::io::Errno| OpenError::Map { bytes: len, source: errno.into() };
        let start = NonNull::new(start.map_err(failed)?.cast()).ok_or_else(|| failed(rustix::io::Errno::FAULT))?;
        let mapping = Mapping { start, len, used: AtomicUsize::new(used), device, process: getpid() };
        if mapping.device.is_some() {
            // Its memory is shared: a child would write into what its parent has.
            // SAFETY: the mapping is ours, and the advice is about children only.
            unsafe { madvise(mapping.start.as_ptr().cast(), len, Advice::LinuxDontFork) }.map_err(failed)?;
        }
        Ok(Self(Arc::new(mapping)))
    }

    /// Whether it is a device, and not ordinary memory.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.0.device.is_some()
    }

    /// Whether it is shared by several ranks, so that only who synchronises sees what others write.
    #[must_use]
    pub fn is_on_ranks(&self) -> bool {
        self.0.ranks().is_some()
    }

    /// The processors that this program may run on, in order, and the rank of each; none where memory is coherent, as it is on one rank. A thread has to
    /// stay on processors of one rank: what it writes is that rank's, and so is what it has [acquired](Self::acquire).
    #[must_use]
    pub fn places(&self) -> Vec<(usize, u32)> {
        self.0.ranks().map_or_else(Vec::new, Ranks::places)
    }

    /// Whether races between ranks are looked for in it; rank 0 of the machine tells of them on its standard error.
    #[must_use]
    pub fn looks_for_races(&self) -> bool {
        self.0.ranks().is_some_and(Ranks::looks_for_races)
    }

    /// Bytes of it, all together.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.len
    }

    /// Bytes that are left to be given out.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.len - self.0.used.load(Ordering::Relaxed).min(self.0.len)
    }

    /// What others have released before is seen by this thread from here on.
    ///
    /// Barriers, locks and reductions of a [`crate::Team`] imply it. It is for programs that synchronise in their own way, over ordinary memory:
    /// whoever has waited there for another thread acquires before it reads what that has written.
    pub fn acquire(&self) {
        fence(Ordering::Acquire);
        // On one rank memory is coherent, and only the compiler and the processor are to be kept in order.
        if let Some(ranks) = self.0.ranks() {
            ranks.command(HEAR);
        }
    }

    /// What this thread has written is seen by who acquires after. It comes before the thread tells others, over ordinary memory, that it
    /// has written.
    pub fn release(&self) {
        fence(Ordering::Release);
        if let Some(ranks) = self.0.ranks() {
            ranks.command(TELL);
        }
    }

    /// An array of `len` zeroes, at the start of a page of its own.
    ///
    /// # Errors
    /// [`OutOfRelaxed`] when there is not so much left. What has been given out is not reused before all of it is given back.
    pub fn array<T: Element>(&self, len: usize) -> Result<Array<T>, OutOfRelaxed> {
        let bytes = len.saturating_mul(size_of::<T>());
        let start = self.bytes(bytes)?;
        Ok(Array::new(Arc::clone(&self.0), start.cast(), len))
    }

    /// So many zero bytes, at the start of a page of their own. They stay as long as this or an array does.
    ///
    /// # Errors
    /// [`OutOfRelaxed`].
    pub fn bytes(&self, bytes: usize) -> Result<NonNull<u8>, OutOfRelaxed> {
        let mapping = &*self.0;
        let end =
            |used: usize| used.checked_add(bytes)?.checked_next_multiple_of(PAGE).filter(|end| *end <= mapping.len);
        let taken = mapping.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, end);
        let at = taken.map_err(|used| OutOfRelaxed { asked: bytes, left: mapping.len - used })?;
        // SAFETY: `at` and the bytes after it are within the mapping.
        let start = unsafe { mapping.start.add(at) };
        if mapping.device.is_some() {
            // An earlier program may have left something there, which is seen as it was left.
            self.acquire();
            // SAFETY: the bytes have just been given out, to nobody else.
            unsafe { self.clear(start, bytes) };
        }
        Ok(start)
    }

    /// Makes bytes of it zero. On several ranks pages that are zero are not written: whoever writes a page has it to bring home.
    ///
    /// # Safety
    /// They are a part of it that nobody else has.
    pub(crate) unsafe fn clear(&self, start: NonNull<u8>, bytes: usize) {
        for at in (0..bytes).step_by(PAGE) {
            let len = PAGE.min(bytes - at);
            // SAFETY: within the bytes.
            let page = unsafe { start.add(at) };
            // SAFETY: the bytes are mapped, and nobody else has them.
            let is_zero = || unsafe { std::slice::from_raw_parts(page.as_ptr(), len) }.iter().all(|byte| *byte == 0);
            if !self.is_on_ranks() || !is_zero() {
                // SAFETY: as above.
                unsafe { page.write_bytes(0, len) };
            }
        }
    }

    /// All that is left, whole pages, with whatever is in it; nothing is left then.
    pub(crate) fn rest(&self) -> NonNull<[u8]> {
        let mapping = &*self.0;
        let used = mapping.used.swap(mapping.len, Ordering::Relaxed).min(mapping.len);
        // SAFETY: it is within the mapping, or at its end.
        let start = unsafe { mapping.start.add(used) };
        NonNull::slice_from_raw_parts(start, (mapping.len - used) / PAGE * PAGE)
    }
}

impl Mapping {
    fn ranks(&self) -> Option<&Ranks> {
        self.device.as_ref()?.ranks.as_ref()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if getpid() != self.process {
            // In a child the addresses may be something else's by now.
            return;
        }
        if let Some(device) = &self.device {
            device.taken.store(false, Ordering::Release);
        }
        // SAFETY: nobody has a pointer into it any more: arrays keep the mapping.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "the mapping is ours");
    }
}

/// The size of a character device of memory (Linux Documentation, ABI/testing/sysfs-bus-dax), or of a file.
pub(crate) fn size_of_device(device: &File) -> io::Result<usize> {
    let metadata = device.metadata()?;
    let bytes = if metadata.file_type().is_char_device() {
        let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let text = std::fs::read_to_string(format!("/sys/dev/char/{major}:{minor}/size"))?;
        text.trim().parse().map_err(io::Error::other)?
    } else {
        metadata.len()
    };
    usize::try_from(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of so many bytes, all of them sevens.
    fn file(bytes: usize) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; bytes]).unwrap();
        file
    }

    #[test]
    fn without_a_device_it_is_ordinary_memory() {
        for name in [None, Some(OsString::new())] {
            let relaxed = Relaxed::open_named(name).unwrap();
            assert!(!relaxed.is_device());
            assert!(relaxed.size() > 64 << 20, "as much as the machine has");
        }
    }

    #[test]
    fn arrays_are_zero_even_where_another_program_was() {
        let file = file(CONTROL_BYTES + 3 * PAGE);
        let relaxed = Relaxed::open_named(Some(file.path().into())).unwrap();
        assert!(relaxed.is_device());
        assert_eq!((relaxed.size(), relaxed.left()), (CONTROL_BYTES + 3 * PAGE, 3 * PAGE));
        let mut array = relaxed.array::<u64>(PAGE / 8 + 1).unwrap();
        assert!(array.as_mut_slice().iter().all(|word| *word == 0));
        assert_eq!(array.as_mut_slice().as_ptr() as usize % PAGE, 0);
        array.set(0, u64::MAX);
        drop((array, relaxed));
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(bytes[..CONTROL_BYTES].iter().all(|byte| *byte == 7), "vincs's own part is left alone");
        assert_eq!(bytes[CONTROL_BYTES..CONTROL_BYTES + 9], [255, 255, 255, 255, 255, 255, 255, 255, 0]);
    }

    #[test]
    fn what_is_left_can_be_had_to_the_last_byte_and_no_more() {
        let relaxed = Relaxed::ordinary(4 * PAGE).unwrap();
        relaxed.array::<u8>(1).unwrap();
        let rest = relaxed.array::<u8>(3 * PAGE + 1).unwrap_err();
        assert_eq!(rest, OutOfRelaxed { asked: 3 * PAGE + 1, left: 3 * PAGE });
        assert!(rest.to_string().contains("--relaxed"));
        assert_eq!(relaxed.array::<u64>(usize::MAX).unwrap_err().asked, usize::MAX, "more than can be counted");
        assert_eq!(relaxed.array::<u8>(3 * PAGE).unwrap().len(), 3 * PAGE);
        assert_eq!(relaxed.left(), 0);
        assert!(relaxed.array::<u8>(1).is_err());
        assert!(relaxed.array::<u8>(0).unwrap().is_empty());
    }

    #[test]
    fn a_child_has_nothing_of_a_device() {
        let file = file(CONTROL_BYTES + PAGE);
        let relaxed = Relaxed::open_device(file.path()).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let flags = maps.split_once(&format!("{:08x}-", relaxed.0.start.addr())).unwrap().1;
        let flags = flags.lines().find_map(|line| line.strip_prefix("VmFlags:")).unwrap();
        // proc(5): it is not copied on fork.
        assert!(flags.split_whitespace().any(|word| word == "dc"), "{flags}");
    }

    #[test]
    fn two_programs_do_not_get_the_same_memory() {
        let file = file(CONTROL_BYTES + PAGE);
        let first = Relaxed::open_device(file.path()).unwrap();
        let array = first.array::<u8>(1).unwrap();
        assert!(matches!(Relaxed::open_device(file.path()), Err(OpenError::InUse(_))));
        drop(first);
        assert!(matches!(Relaxed::open_device(file.path()), Err(OpenError::InUse(_))), "an array is left");
        drop(array);
        assert!(Relaxed::open_device(file.path()).is_ok());
    }

    #[test]
    fn a_device_that_is_missing_or_too_small_is_named() {
        let missing = Relaxed::open_device(Path::new("/dev/no-such-dax")).unwrap_err().to_string();
        assert!(missing.contains("/dev/no-such-dax") && missing.contains(RELAXED_VARIABLE), "{missing}");
        let file = file(CONTROL_BYTES + PAGE - 1);
        let small = Relaxed::open_device(file.path()).unwrap_err();
        assert!(matches!(small, OpenError::TooSmall { bytes: CONTROL_BYTES, .. }), "{small}");
        assert!(
            matches!(Relaxed::open_device(Path::new("/dev/null")), Err(OpenError::Device { .. })),
            "it has no size"
        );
    }
}
