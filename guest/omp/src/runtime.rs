//! What a release has to precede, or an acquire to follow, and the runtime does not call a tool for in time.
//!
//! OMPT tells that a mutex is released when it is: by then another thread may have it, and look at what has not been released yet. So these stand in
//! front of the runtime's functions of the same names, which programs call (LLVM, openmp/runtime/src/kmp_csupport.cpp).

use std::ffi::{c_int, c_void};
use std::mem::transmute;

use crate::counters::Event;
use crate::process::{acquire, next, release};

macro_rules! release_before {
    ($event:ident: $($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
            let next = next!($name, unsafe extern "C" fn($($type),*) $(-> $result)?);
            release(Event::$event);
            // SAFETY: the arguments are those of who called it.
            unsafe { next($($argument),*) }
        }
    )*};
}

macro_rules! acquire_after {
    ($event:ident if $may:ident: $($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            let next = next!($name, unsafe extern "C" fn($($type),*) -> $result);
            // SAFETY: the arguments are those of who called it.
            let result = unsafe { next($($argument),*) };
            if $may(&result) {
                acquire(Event::$event);
            }
            result
        }
    )*};
}

type Any = *mut c_void;

/// Reductions give 1 to who has the lock, and adds what it has.
fn has_lock(method: &c_int) -> bool {
    *method == 1
}

fn has_waited<T>(_: &T) -> bool {
    true
}

release_before! { MutexReleased:
    __kmpc_end_critical(place: Any, thread: c_int, lock: Any);
    __kmpc_end_ordered(place: Any, thread: c_int);
    omp_unset_lock(lock: Any);
    omp_unset_lock_(lock: Any);
    omp_unset_nest_lock(lock: Any);
    omp_unset_nest_lock_(lock: Any);
}

acquire_after! { Reduction if has_lock:
    __kmpc_reduce(place: Any, thread: c_int, count: c_int, bytes: usize, data: Any, add: Any, lock: Any) -> c_int;
    __kmpc_reduce_nowait(place: Any, thread: c_int, count: c_int, bytes: usize, data: Any, add: Any, lock: Any) -> c_int;
}

release_before! { ReductionEnd:
    __kmpc_end_reduce(place: Any, thread: c_int, lock: Any);
    __kmpc_end_reduce_nowait(place: Any, thread: c_int, lock: Any);
}

// A part of an untied task gives the next part to whoever comes, without a callback.
release_before! { TaskCreated:
    __kmpc_omp_task(place: Any, thread: c_int, task: Any) -> c_int;
}

// A loop of tasks may be made by tasks of the runtime's own, on other threads.
release_before! { TaskCreated:
    __kmpc_taskloop(place: Any, thread: c_int, task: Any, deferred: c_int, first: Any, last: Any, step: i64, alone: c_int, kind: c_int, size: u64,
        copy: Any);
    __kmpc_taskloop_5(place: Any, thread: c_int, task: Any, deferred: c_int, first: Any, last: Any, step: i64, alone: c_int, kind: c_int, size: u64,
        strict: c_int, copy: Any);
}

release_before! { Dependence:
    omp_fulfill_event(event: usize);
    omp_fulfill_event_(event: Any);
    __kmpc_doacross_post(place: Any, thread: c_int, iteration: Any);
}

acquire_after! { Dependence if has_waited:
    __kmpc_doacross_wait(place: Any, thread: c_int, iteration: Any) -> ();
    __kmpc_omp_wait_deps(place: Any, thread: c_int, count: c_int, list: Any, others: c_int, more: Any) -> ();
    __kmpc_omp_taskwait_deps_51(place: Any, thread: c_int, count: c_int, list: Any, others: c_int, more: Any, nowait: c_int) -> ();
}
