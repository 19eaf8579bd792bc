//! Whether this process has relaxed memory, decided once as it starts, and what it has then.
//!
//! What the runtime and the program call comes without any context, so there is one of it, in a static.

use std::ffi::{CStr, c_void};
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use vincs_guest::{Heap, OpenError, RELAXED_VARIABLE, Relaxed};

use crate::counters::{Counters, Event};
use crate::seats::{Processors, SeatError, Seats};
use crate::settings::{RuntimeSettings, Settings};

/// What every program of LLVM's runtime calls.
const OF_RUNTIME: &CStr = c"__kmpc_fork_call";

/// What only programs of GCC's runtime call, and its library.
const OF_GNU_RUNTIME: (&CStr, &CStr) = (c"GOMP_parallel", c"libgomp.so.1");

/// That one for who reads a line, and what to do about it.
const GNU_RUNTIME: &str = "GCC's OpenMP runtime, which tells no tool when threads synchronise";
const REMEDY: &str = "compile it with clang -fopenmp";

/// A program with relaxed memory.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) heap: Heap,
    /// On several ranks.
    seats: Option<Seats>,
    settings: Settings,
    /// Where the runtime, the C library and the loader are. What they allocate for themselves (tasks, buffers of files) they also use by their own
    /// locks and atomics, so it stays in ordinary memory.
    own_ways: [Range<usize>; 3],
    /// This is a child of the process that has started: its parent's books are none of its own, and may be locked for ever.
    forked: AtomicBool,
    /// It has been said that relaxed memory is full.
    full: AtomicBool,
}

static PROCESS: OnceLock<Process> = OnceLock::new();
static COUNTERS: Counters = Counters::new();

/// The loader calls it before the program starts.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

/// The process, if it has relaxed memory.
pub(crate) fn get() -> Option<&'static Process> {
    PROCESS.get()
}

/// What others have released is seen by this thread from here on, because of this event.
pub(crate) fn acquire(event: Event) {
    if let Some(process) = get() {
        COUNTERS.count(event);
        process.acquire();
    }
}

/// What this thread has written is seen by who acquires after, because of this event.
pub(crate) fn release(event: Event) {
    if let Some(process) = get() {
        COUNTERS.count(event);
        process.release();
    }
}

/// Both, for a point at which the thread may give something to others and get something of them.
pub(crate) fn release_and_acquire(event: Event) {
    release(event);
    if let Some(process) = get() {
        process.acquire();
    }
}

impl Process {
    fn acquire(&self) {
        COUNTERS.count(Event::Acquire);
        if !self.is_forked() {
            self.check_seat();
            self.heap.relaxed().acquire();
        }
    }

    fn release(&self) {
        COUNTERS.count(Event::Release);
        if !self.is_forked() {
            self.check_seat();
            self.heap.relaxed().release();
        }
    }

    /// On several ranks: ends the program if this thread is not where it was.
    fn check_seat(&self) {
        if let Some(seats) = &self.seats {
            seats.check().unwrap_or_else(|error| stop(&error));
        }
    }

    /// This thread of the runtime's begins its part of a parallel region, as the one of this number.
    pub(crate) fn sit(&self, number: usize) {
        if let Some(seats) = self.seats.as_ref().filter(|_| !self.is_forked()) {
            seats.sit(number).unwrap_or_else(|error| stop(&error));
        }
    }

    /// Whether an allocation of so many bytes by who called from this address is for relaxed memory.
    pub(crate) fn is_large(&self, bytes: usize, caller: usize) -> bool {
        bytes >= self.settings.large && !self.own_ways.iter().any(|range| range.contains(&caller)) && !self.is_forked()
    }

    /// Whether the address is in its relaxed memory.
    pub(crate) fn has(&self, address: usize) -> bool {
        let memory = self.heap.memory();
        address.wrapping_sub(memory.addr().get()) < memory.len()
    }

    /// Whether the machine has several ranks.
    pub(crate) fn is_on_ranks(&self) -> bool {
        self.seats.is_some()
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.forked.load(Ordering::Relaxed)
    }

    /// An allocation that is large.
    pub(crate) fn allocate(&self, bytes: usize, alignment: usize, zeroed: bool) -> Option<NonNull<u8>> {
        self.check_seat();
        let piece =
            if zeroed { self.heap.allocate_zeroed(bytes, alignment) } else { self.heap.allocate(bytes, alignment) };
        COUNTERS.count(if piece.is_some() { Event::Large } else { Event::Refused });
        let all = self.heap.memory().len();
        // What is larger than all of it, the C library is likely to refuse, too.
        if piece.is_none() && bytes <= all && !self.full.swap(true, Ordering::Relaxed) {
            say(&format!(
                "relaxed memory, {all} bytes for arrays, has no {bytes} left in one piece: what does not fit is in ordinary memory; give more with --relaxed"
            ));
        }
        piece
    }

    /// Takes an allocation back. False for what is none.
    ///
    /// # Safety
    /// Nobody uses it any more.
    pub(crate) unsafe fn free(&self, piece: NonNull<u8>) -> bool {
        self.check_seat();
        // SAFETY: as of the caller.
        unsafe { self.heap.free(piece) }
    }
}

/// Ends a program whose results would be wrong.
fn stop(error: &SeatError) -> ! {
    say(&error.to_string());
    std::process::abort()
}

/// Writes a line for the user. What cannot be written is lost.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "libvincs_omp: {line}");
}

/// Ends a program that cannot be started as it was asked for.
pub(crate) fn refuse(line: &str) -> ! {
    say(line);
    // SAFETY: it ends the process; nothing has to be put in order before.
    unsafe { libc::_exit(2) }
}

/// Whether this library comes first of all that have malloc: it has been preloaded, and nothing before it.
pub(crate) fn is_preloaded() -> bool {
    let own = object_of(ptr::from_ref(&COUNTERS).cast());
    [c"malloc", c"ompt_start_tool"].into_iter().all(|name| object_of(symbol(libc::RTLD_DEFAULT, name)) == own)
}

extern "C" fn start() {
    let runtime = symbol(libc::RTLD_DEFAULT, OF_RUNTIME);
    let disabled = std::env::var_os("OMP_TOOL").is_some_and(|value| value == "disabled");
    if disabled || !is_preloaded() {
        return;
    }
    if runtime.is_null() {
        return say_if_of_gnu();
    }
    let variable = |name: &str| std::env::var_os(name);
    let settings = Settings::read(variable).unwrap_or_else(|line| refuse(&line));
    let processors = Processors::of_thread();
    let relaxed = match Relaxed::open() {
        Ok(relaxed) => relaxed,
        Err(error @ (OpenError::InUse(_) | OpenError::Map { .. })) => {
            return say(&format!("{error}; this one has ordinary memory"));
        }
        Err(error) => refuse(&error.to_string()),
    };
    let seats = Seats::new(relaxed.places(), Processors::current().unwrap_or(0));
    let (_, gnu_library) = OF_GNU_RUNTIME;
    if seats.is_some() && !loaded(gnu_library).is_null() {
        // With ordinary memory it may run on all ranks.
        processors.give_to_thread().unwrap_or_else(|error| refuse(&error.to_string()));
        return say(&format!(
            "a part of this program uses {GNU_RUNTIME}: on several ranks all of it has ordinary memory; {REMEDY}"
        ));
    }
    let counts = seats.as_ref().map(|seats| (seats.count(), Processors::of_machine()));
    let for_runtime = RuntimeSettings::new(variable, counts).unwrap_or_else(|line| refuse(&line));
    for (name, value) in for_runtime.changes {
        match value {
            // SAFETY: the program has not started, so no other thread looks at the environment.
            Some(value) => unsafe { std::env::set_var(name, value) },
            // SAFETY: as above.
            None => unsafe { std::env::remove_var(name) },
        }
    }
    if let Some(line) = for_runtime.ignored {
        say(&line);
    }
    let process = Process {
        heap: Heap::new(relaxed),
        seats,
        settings,
        own_ways: [runtime.addr(), libc::getpid as *const () as usize, loader()].map(extent_of),
        forked: AtomicBool::new(false),
        full: AtomicBool::new(false),
    };
    if PROCESS.set(process).is_err() {
        return;
    }
    // SAFETY: the function may be called at any time.
    let at_exit = unsafe { libc::atexit(write_statistics) };
    // SAFETY: as above.
    let at_fork = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    if (at_exit, at_fork) != (0, 0) {
        refuse("no memory left to start with");
    }
}

/// A program that was to have relaxed memory, and cannot, is told.
fn say_if_of_gnu() {
    let (function, _) = OF_GNU_RUNTIME;
    let has_memory = std::env::var_os(RELAXED_VARIABLE).is_some_and(|device| !device.is_empty());
    if has_memory && !symbol(libc::RTLD_DEFAULT, function).is_null() {
        say(&format!("this program uses {GNU_RUNTIME}: it has ordinary memory; {REMEDY}"));
    }
}

extern "C" fn in_child() {
    if let Some(process) = get() {
        process.forked.store(true, Ordering::Relaxed);
    }
}

extern "C" fn write_statistics() {
    let Some((process, path)) = get().and_then(|process| Some((process, process.settings.statistics.as_ref()?))) else {
        return;
    };
    let device = u8::from(process.heap.relaxed().is_device());
    let ranks = process.seats.as_ref().map_or(1, Seats::ranks_used);
    let text = format!("device {device}\nranks {ranks}\n{}", COUNTERS.lines());
    if !process.is_forked()
        && let Err(error) = fs::write(path, text)
    {
        say(&format!("statistics cannot be written to {}: {error}", path.display()));
    }
}

/// Runtimes that may have come by dlopen, and not for all to see. Their callers find this library's functions first.
const RUNTIMES: [&CStr; 4] = [c"libomp.so.5", c"libomp.so", c"libiomp5.so", c"libgomp.so.1"];

/// A function that comes after this library's own of the same name, looked up when it is first needed.
#[derive(Debug)]
pub(crate) struct Next {
    name: &'static CStr,
    at: AtomicPtr<c_void>,
}

impl Next {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self { name, at: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Its address. Who calls it in vain cannot go on, and the process ends.
    pub(crate) fn get(&self) -> *mut c_void {
        let known = self.at.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        let mut found = symbol(libc::RTLD_NEXT, self.name);
        if found.is_null() {
            let mut others = RUNTIMES.iter().map(|runtime| in_loaded(runtime, self.name));
            found = others.find(|found| !found.is_null()).unwrap_or(ptr::null_mut());
        }
        if found.is_null() {
            say(&format!("{} is in no library of this program", self.name.to_string_lossy()));
            std::process::abort();
        }
        self.at.store(found, Ordering::Relaxed);
        found
    }
}

/// The function of this name and type that comes after this library's own.
macro_rules! next {
    ($name:ident, $type:ty) => {{
        const NAME: &std::ffi::CStr =
            match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => c"",
            };
        static NEXT: $crate::process::Next = $crate::process::Next::new(NAME);
        // SAFETY: the function of this name has this type.
        unsafe { transmute::<*mut c_void, $type>(NEXT.get()) }
    }};
}
pub(crate) use next;

/// A library, if it is loaded already.
fn loaded(library: &CStr) -> *mut c_void {
    // SAFETY: nothing is loaded, and no code of it runs.
    unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) }
}

/// A library's function, if it is loaded and has it.
fn in_loaded(library: &CStr, name: &CStr) -> *mut c_void {
    let library = loaded(library);
    // No handle would mean the default search order, which finds this library again.
    if library.is_null() { ptr::null_mut() } else { symbol(library, name) }
}

fn symbol(library: *mut c_void, name: &CStr) -> *mut c_void {
    // SAFETY: the handle is one of the special ones or open, the name ends with a zero.
    unsafe { libc::dlsym(library, name.as_ptr()) }
}

/// An address of the loader's.
fn loader() -> usize {
    // SAFETY: any kind of value may be asked for.
    let start = unsafe { libc::getauxval(libc::AT_BASE) };
    usize::try_from(start).unwrap_or(0)
}

/// Where the object that has this address starts; 0 when none does.
fn object_of(address: *const c_void) -> usize {
    let mut info = libc::Dl_info {
        dli_fname: ptr::null(),
        dli_fbase: ptr::null_mut(),
        dli_sname: ptr::null(),
        dli_saddr: ptr::null_mut(),
    };
    // SAFETY: any address may be asked for; the structure is there to be filled in.
    let found = unsafe { libc::dladdr(address, &raw mut info) };
    if found == 0 { 0 } else { info.dli_fbase.addr() }
}

/// The addresses of the object that has this one, from its first segment's start to its last one's end.
fn extent_of(address: usize) -> Range<usize> {
    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _: libc::size_t, found: *mut c_void) -> libc::c_int {
        // SAFETY: the loader gives a structure that is valid during the call.
        let info = unsafe { &*info };
        // SAFETY: the caller's range, which is there during the call.
        let found = unsafe { &mut *found.cast::<(usize, Range<usize>)>() };
        // SAFETY: as many headers as the loader says are there.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let segments = headers.iter().filter(|header| header.p_type == libc::PT_LOAD).map(|header| {
            let start = number(info.dlpi_addr.wrapping_add(header.p_vaddr));
            start..start.saturating_add(number(header.p_memsz))
        });
        let extent = segments.reduce(|all, next| all.start.min(next.start)..all.end.max(next.end)).unwrap_or_default();
        let here = extent.contains(&found.0);
        if here {
            found.1 = extent;
        }
        here.into()
    }
    let mut found = (address, 0..0);
    // SAFETY: the function keeps to the loader's rules and to the type of what it is given.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_where_its_functions_are() {
        let here = extent_of(extent_of as *const () as usize);
        assert!(here.contains(&(object_of as *const () as usize)));
        assert_eq!(object_of((extent_of as *const ()).cast()), here.start);
        for other in [libc::getpid as *const () as usize, loader()].map(extent_of) {
            assert!(!other.is_empty() && (other.end <= here.start || here.end <= other.start));
        }
        assert_eq!((extent_of(1), object_of(ptr::without_provenance(1))), (0..0, 0), "nothing is there");
    }
}
