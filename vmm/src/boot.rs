//! Boots a kernel by Linux's 64-bit boot protocol (Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
//!
//! The kernel is entered in long mode with paging on, a flat address space and RSI pointing to the boot parameters.
//! Boot structures are in low RAM, where the kernel reads them before it uses that memory for itself:
//!
//! | address | what |
//! |---|---|
//! | 0x500 | global descriptor table: null, unused, flat code (selector 0x10), flat data (0x18) |
//! | 0x7000 | boot parameters ("zero page") with the memory map |
//! | 0x9000 | page tables: identity mapping of the first 4 GiB in 2 MiB pages |
//! | 0x20000 | command line |

mod elf;
mod image;
mod paging;
mod params;

pub use image::{KernelError, KernelImage};
pub(crate) use paging::enter_long_mode;
pub use params::{BootError, BootPlan, MAX_COMMAND_LINE};
