//! The tool: what the runtime calls where threads synchronise (OpenMP 5.1, chapter 4; numbers and types as in omp-tools.h).
//!
//! | event | before others go on | after others were waited for |
//! |---|---|---|
//! | parallel region | begin: release | each thread's implicit task: acquire; end: acquire |
//! | barrier, taskwait, end of a taskgroup | release | acquire |
//! | lock, critical, ordered | release, by [`crate::runtime`] | acquire |
//! | task | created: release | |
//! | change of tasks on a thread | release | acquire |
//! | flush | release | acquire |
//!
//! A thread of the runtime's takes its seat ([`crate::seats`]) as it begins its first implicit task, before the acquire.
//!
//! Locks, barriers and queues of the runtime are in ordinary memory, which is coherent; so whoever has waited there for another thread's
//! release, acquires after it.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::transmute;
use std::sync::atomic::AtomicU64;

use crate::counters::Event;
use crate::process::{acquire, get, is_preloaded, refuse, release, release_and_acquire, say};
use crate::seats::Seats;

/// `ompt_data_t`: a word of the tool's, which this one does not use.
type Data = *mut AtomicU64;
/// A callback of whatever type.
type Callback = unsafe extern "C" fn();
type Lookup = unsafe extern "C" fn(*const c_char) -> Option<Callback>;
type SetCallback = unsafe extern "C" fn(event: c_int, callback: Callback) -> c_int;

/// `ompt_set_always`: the callback is made each time.
const SET_ALWAYS: c_int = 5;
/// `ompt_scope_begin`, `ompt_scope_end`; `ompt_scope_beginend` is both at once.
const BEGIN: c_int = 1;
const END: c_int = 2;
/// `ompt_sync_region_taskgroup`.
const TASKGROUP: c_int = 6;
/// `ompt_thread_worker`: a thread that the runtime has started, and is no other's.
const WORKER: c_int = 2;

/// `ompt_start_tool_result_t`.
#[repr(C)]
#[derive(Debug)]
struct StartTool {
    initialize: unsafe extern "C" fn(Lookup, c_int, Data) -> c_int,
    finalize: extern "C" fn(Data),
    data: AtomicU64,
}

static START_TOOL: StartTool = StartTool { initialize, finalize, data: AtomicU64::new(0) };

/// The runtime asks every library of the program, and those of `OMP_TOOL_LIBRARIES`, for a tool.
#[unsafe(no_mangle)]
extern "C" fn ompt_start_tool(_: c_uint, _: *const c_char) -> *const StartTool {
    if get().is_some() {
        return &raw const START_TOOL;
    }
    if !is_preloaded() {
        say("as a tool alone it does nothing: name it in LD_PRELOAD, before other libraries");
    }
    std::ptr::null()
}

unsafe extern "C" fn initialize(lookup: Lookup, _: c_int, _: Data) -> c_int {
    // SAFETY: the name ends with a zero.
    let Some(set) = (unsafe { lookup(c"ompt_set_callback".as_ptr()) }) else {
        refuse("the OpenMP runtime has no callbacks for tools; use LLVM's");
    };
    // SAFETY: the function of this name has this type.
    let set = unsafe { transmute::<Callback, SetCallback>(set) };
    for (event, name, callback) in callbacks() {
        // SAFETY: the callback has the type of this event's.
        if unsafe { set(event, callback) } != SET_ALWAYS {
            refuse(&format!("the OpenMP runtime does not tell of each {name}; use LLVM's, of version 14 or later"));
        }
    }
    1
}

extern "C" fn finalize(_: Data) {}

/// Each event's number, its name for who reads an error, and the callback.
fn callbacks() -> [(c_int, &'static str, Callback); 10] {
    // SAFETY: a function's address; the runtime calls it as what its event has, which is its type.
    let callback = |address: *const ()| unsafe { transmute::<*const (), Callback>(address) };
    [
        (1, "thread", callback(thread_begin as *const ())),
        (3, "parallel region's begin", callback(parallel_begin as *const ())),
        (4, "parallel region's end", callback(parallel_end as *const ())),
        (5, "task", callback(task_create as *const ())),
        (6, "change of tasks", callback(task_schedule as *const ())),
        (7, "implicit task", callback(implicit_task as *const ())),
        (16, "wait", callback(sync_region_wait as *const ())),
        (23, "barrier", callback(sync_region as *const ())),
        (27, "lock", callback(mutex_acquired as *const ())),
        (29, "flush", callback(flush as *const ())),
    ]
}

extern "C" fn thread_begin(kind: c_int, _: Data) {
    if kind == WORKER {
        Seats::is_spare();
    }
}

extern "C" fn parallel_begin(_: Data, _: *const c_void, _: Data, _: c_uint, _: c_int, _: *const c_void) {
    release(Event::Parallel);
}

extern "C" fn parallel_end(_: Data, _: Data, _: c_int, _: *const c_void) {
    acquire(Event::ParallelEnd);
}

extern "C" fn task_create(_: Data, _: *const c_void, _: Data, _: c_int, _: c_int, _: *const c_void) {
    release(Event::TaskCreated);
}

extern "C" fn task_schedule(_: Data, _: c_int, _: Data) {
    release_and_acquire(Event::TaskSwitch);
}

/// Its end needs nothing: the barrier before it has released.
extern "C" fn implicit_task(endpoint: c_int, _: Data, _: Data, _: c_uint, number: c_uint, _: c_int) {
    if endpoint == BEGIN {
        if let Some(process) = get() {
            process.sit(number as usize);
        }
        acquire(Event::ImplicitTask);
    }
}

extern "C" fn sync_region(kind: c_int, endpoint: c_int, _: Data, _: Data, _: *const c_void) {
    match endpoint {
        BEGIN => release(Event::SyncRegion),
        // Already: see below.
        END if kind == TASKGROUP => {}
        END => acquire(Event::SyncRegionEnd),
        _ => release_and_acquire(Event::SyncRegion),
    }
}

/// A taskgroup's reductions are put together when its tasks have been waited for, before it ends.
extern "C" fn sync_region_wait(kind: c_int, endpoint: c_int, _: Data, _: Data, _: *const c_void) {
    if (kind, endpoint) == (TASKGROUP, END) {
        acquire(Event::SyncRegionEnd);
    }
}

extern "C" fn mutex_acquired(_: c_int, _: u64, _: *const c_void) {
    acquire(Event::MutexAcquired);
}

extern "C" fn flush(_: Data, _: *const c_void) {
    release_and_acquire(Event::Flush);
}
