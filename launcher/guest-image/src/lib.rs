//! Kernels, kernel modules and initramfs archives: finding, unpacking and assembling them.
//!
//! - [`kernel`] finds a kernel and its modules, [`package`] fetches a stock one, [`cache`] says where they are kept;
//! - [`modules`] picks the modules a guest needs, with all they depend on, in load order;
//! - [`cpio`] puts files into an initramfs;
//! - [`vmlinux`] takes the ELF out of a compressed kernel;
//! - [`INIT`] is the guest's first program.

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

/// The guest's first program (package vincs-guest-init): a static x86-64 ELF, to be `/init` in the initramfs.
pub const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vincs-init"));

#[cfg(test)]
mod tests {
    use elf::ElfBytes;
    use elf::endian::LittleEndian;

    #[test]
    fn the_first_program_needs_no_other_file() {
        let program = ElfBytes::<LittleEndian>::minimal_parse(super::INIT).unwrap();
        assert_eq!(program.ehdr.e_machine, elf::abi::EM_X86_64);
        let segments: Vec<_> = program.segments().unwrap().iter().map(|segment| segment.p_type).collect();
        assert!(segments.contains(&elf::abi::PT_LOAD));
        assert!(!segments.contains(&elf::abi::PT_INTERP), "it is linked dynamically");
    }
}
