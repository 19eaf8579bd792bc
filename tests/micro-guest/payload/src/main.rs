//! The micro-guest: a kernel for the Linux 64-bit boot protocol that starts every processor, takes all of them to ring 3
//! and runs one small program there.
//!
//! Ring 0 is `boot.s` and nothing else; all Rust code runs in ring 3.
//!
//! - [`cpu`]: what ring 0 and ring 3 share about a processor, and ring 0's services.
//! - [`smp`]: the start of the other processors and the way all of them work together.
//! - [`interrupts`]: the interrupt descriptor table; faults.
//! - [`parameters`]: the command line.
//! - [`port`], [`serial`] and [`report`]: the way to the host.
//! - [`program`]: the programs.
//! - [`memory`]: memory for programs, and the functions that the compiler calls.

#![no_std]
#![no_main]

mod cpu;
mod interrupts;
mod memory;
mod parameters;
mod port;
mod program;
mod report;
mod serial;
mod smp;

use core::panic::PanicInfo;

use crate::cpu::Cpu;

/// The first instruction in ring 3, on every processor.
#[unsafe(no_mangle)]
extern "C" fn ring3_start(id: usize) -> ! {
    let cpu = Cpu::new(id);
    if id == 0 {
        interrupts::install();
        let parameters = parameters::read();
        smp::start_others(cpu, &parameters);
        program::run(cpu, &parameters);
        report::done()
    }
    smp::arrive();
    program::run(cpu, &parameters::shared());
    cpu::park()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    report::fail(format_args!("{info}"))
}

/// The core library is compiled for targets that unwind and refers to this; with panic = "abort" nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
