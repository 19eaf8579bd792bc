//! Kernels, kernel modules and initramfs archives: finding, unpacking and assembling them.
//!
//! - [`kernel`] finds a kernel and its modules, [`package`] fetches a stock one, [`cache`] says where they are kept;
//! - [`modules`] picks the modules a guest needs, with all they depend on, in load order;
//! - [`cpio`] puts files into an initramfs;
//! - [`vmlinux`] takes the ELF out of a compressed kernel.

pub mod cache;
mod compression;
pub mod cpio;
mod file;
pub mod kernel;
pub mod modules;
pub mod package;
pub mod vmlinux;

pub use compression::DecompressError;
pub use file::FileError;
