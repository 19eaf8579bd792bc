//! Kernel images: reading and checking them before any machine exists.

use std::fs;
use std::io::{self, Cursor};
use std::ops::Range;
use std::path::{Path, PathBuf};

use linux_loader::bootparam::setup_header;
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::elf::Elf;
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap};

use super::elf;
use crate::layout::HIGH_RAM_START;

const ELF_MAGIC: &[u8] = b"\x7fELF";
/// Offset of the setup header in a bzImage.
const HEADER_OFFSET: usize = 0x1f1;
const HEADER_MAGIC_OFFSET: usize = 0x202;
const HEADER_MAGIC: &[u8] = b"HdrS";
const HEADER_END: usize = HEADER_OFFSET + size_of::<setup_header>();
const SECTOR: u64 = 512;
/// `setup_sects` of zero stands for this many.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// `syssize` counts paragraphs of this many bytes.
const PARAGRAPH: u64 = 16;
/// Boot protocol 2.12 tells of a 64-bit entry point, at this offset into the loaded kernel.
const ENTRY_64_OFFSET: u64 = 0x200;
const PROTOCOL_64_BIT: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
const LOADED_HIGH: u8 = 1;
/// Room that a kernel needs to start when its header does not tell.
const DEFAULT_KERNEL_ROOM: u64 = 32 << 20;
/// Largest image accepted in bytes; a distribution's is about 10 MiB, uncompressed about 60 MiB.
const MAX_IMAGE: u64 = 1 << 30;

/// Why a file is not a kernel that can be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file cannot be read.
    #[error("cannot read kernel {path}: {source}; name a readable kernel with --kernel", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// The file is not a kernel.
    #[error("{path} is not a Linux kernel: {what}; name a bzImage (vmlinuz) or an ELF vmlinux for x86-64", path = .path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file ends early.
    #[error("kernel {path} is truncated: it has {found} bytes, its header says {expected}; copy it again", path = .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Size in bytes.
        found: u64,
        /// Size its header tells.
        expected: u64,
    },
}

/// A kernel image, read and checked.
#[derive(Clone, Debug)]
pub struct KernelImage {
    path: PathBuf,
    bytes: Vec<u8>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// It starts between its preferred address and this one.
    BzImage { start_end: u64 },
    /// Its segments lie from one address to before the other.
    Elf { start: u64, end: u64 },
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    /// Where it is entered.
    pub(super) entry: GuestAddress,
    /// First address after it.
    pub(super) end: u64,
    /// Its setup header, as it is or made up for an ELF image.
    pub(super) header: setup_header,
}

impl KernelImage {
    /// Reads and checks an image.
    ///
    /// # Errors
    /// [`KernelError`] naming the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, KernelError> {
        let read_error = |source| KernelError::Read { path: path.to_owned(), source };
        let metadata = fs::metadata(path).map_err(read_error)?;
        if metadata.is_dir() {
            return Err(read_error(io::ErrorKind::IsADirectory.into()));
        }
        if metadata.len() > MAX_IMAGE {
            let what = format!("{} bytes are more than the limit of {MAX_IMAGE}", metadata.len());
            return Err(KernelError::NotAKernel { path: path.to_owned(), what });
        }
        Self::from_bytes(path, fs::read(path).map_err(read_error)?)
    }

    /// Checks an image that is in memory; errors call it `path`.
    ///
    /// # Errors
    /// [`KernelError`] saying what is wrong with it.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, KernelError> {
        let not_a_kernel = |what: String| KernelError::NotAKernel { path: path.to_owned(), what };
        let found = bytes.len() as u64;
        let truncated = |expected| KernelError::Truncated { path: path.to_owned(), found, expected };
        let kind = if bytes.starts_with(ELF_MAGIC) {
            let Range { start, end } = elf::check(&bytes).map_err(|fault| match fault {
                elf::Fault::Unfit(what) => not_a_kernel(what),
                elf::Fault::Truncated(expected) => truncated(expected),
            })?;
            Kind::Elf { start, end }
        } else if bytes.get(HEADER_MAGIC_OFFSET..HEADER_MAGIC_OFFSET + HEADER_MAGIC.len()) == Some(HEADER_MAGIC) {
            let header = setup_header_of(&bytes).ok_or_else(|| truncated(HEADER_END as u64))?;
            if header.version < PROTOCOL_64_BIT || header.xloadflags & XLF_KERNEL_64 == 0 {
                return Err(not_a_kernel("it has no 64-bit entry point".to_owned()));
            }
            if header.loadflags & LOADED_HIGH == 0 {
                return Err(not_a_kernel("it is a zImage, which is loaded below 1 MiB".to_owned()));
            }
            let setup_sectors = if header.setup_sects == 0 { DEFAULT_SETUP_SECTORS } else { header.setup_sects };
            let setup = (u64::from(setup_sectors) + 1) * SECTOR;
            // The last paragraph may be cut short: images need not be a multiple of 16 bytes long.
            let expected = setup + u64::from(header.syssize) * PARAGRAPH;
            if found + PARAGRAPH <= expected || found <= setup + ENTRY_64_OFFSET {
                return Err(truncated(expected.max(setup + ENTRY_64_OFFSET + 1)));
            }
            let room = if header.init_size == 0 { DEFAULT_KERNEL_ROOM } else { header.init_size.into() };
            // A relocatable kernel starts at its preferred address of 16 MiB or above, wherever it is loaded.
            Kind::BzImage { start_end: header.pref_address.max(HIGH_RAM_START).saturating_add(room) }
        } else {
            return Err(not_a_kernel("it has neither the boot header of a bzImage nor an ELF header".to_owned()));
        };
        Ok(Self { path: path.to_owned(), bytes, kind })
    }

    /// The file it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it decompresses itself when it starts. It may choose another address then than it was linked for (Linux: KASLR); others never do.
    #[must_use]
    pub fn decompresses_itself(&self) -> bool {
        matches!(self.kind, Kind::BzImage { .. })
    }

    /// First address after what it needs to start, from 1 MiB up.
    #[must_use]
    pub fn end(&self) -> u64 {
        match self.kind {
            Kind::BzImage { start_end } => start_end.max(HIGH_RAM_START.saturating_add(self.bytes.len() as u64)),
            Kind::Elf { end, .. } => end,
        }
    }

    /// Guest-physical addresses that are written when it is loaded, or touched when it starts.
    #[must_use]
    pub fn loaded_range(&self) -> Range<u64> {
        match self.kind {
            Kind::BzImage { .. } => HIGH_RAM_START..HIGH_RAM_START.saturating_add(self.bytes.len() as u64),
            Kind::Elf { start, end } => start..end,
        }
    }

    /// Highest address its initramfs may have, if it tells.
    pub(super) fn initrd_max(&self) -> Option<u32> {
        match self.kind {
            Kind::BzImage { .. } => setup_header_of(&self.bytes).map(|header| header.initrd_addr_max),
            // Kernels that come as ELF are recent: the limit is that of boot protocol 2.03 and later.
            Kind::Elf { .. } => Some(0x7fff_ffff),
        }
    }

    /// Loads it into guest memory.
    pub(super) fn load(&self, memory: &GuestMemoryMmap) -> Result<Loaded, KernelError> {
        let mut file = Cursor::new(self.bytes.as_slice());
        let failed = |error: linux_loader::loader::Error| KernelError::NotAKernel {
            path: self.path.clone(),
            what: error.to_string(),
        };
        let loaded: KernelLoaderResult = match self.kind {
            // Where it is loaded is the loader's choice; the address in its header is only a default.
            Kind::BzImage { .. } => BzImage::load(memory, Some(GuestAddress(HIGH_RAM_START)), &mut file, None),
            // An offset, even of zero, also keeps the loader from looking at notes, which are not needed here.
            Kind::Elf { .. } => Elf::load(memory, Some(GuestAddress(0)), &mut file, None),
        }
        .map_err(failed)?;
        let header = match loaded.setup_header {
            Some(header) => header,
            None => header_for_elf(),
        };
        let entry = match self.kind {
            Kind::BzImage { .. } => GuestAddress(loaded.kernel_load.0 + ENTRY_64_OFFSET),
            Kind::Elf { .. } => loaded.kernel_load,
        };
        Ok(Loaded { entry, end: loaded.kernel_end, header })
    }
}

fn setup_header_of(image: &[u8]) -> Option<setup_header> {
    let mut header = setup_header::default();
    header.as_mut_slice().copy_from_slice(image.get(HEADER_OFFSET..HEADER_END)?);
    Some(header)
}

/// What a boot loader has to put in the header when the image brings none.
fn header_for_elf() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        kernel_alignment: 0x20_0000,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage of `payload` bytes behind one setup sector, its header claiming `claimed` paragraphs.
    fn bzimage(payload: usize, claimed: u32) -> Vec<u8> {
        let mut header = setup_header {
            setup_sects: 1,
            syssize: claimed,
            version: 0x020f,
            loadflags: LOADED_HIGH,
            xloadflags: XLF_KERNEL_64,
            ..header_for_elf()
        };
        let mut bytes = vec![0; 1024 + payload];
        bytes[HEADER_OFFSET..HEADER_END].copy_from_slice(header.as_mut_slice());
        bytes
    }

    fn open(bytes: Vec<u8>) -> Result<KernelImage, KernelError> {
        KernelImage::from_bytes(Path::new("vmlinuz"), bytes)
    }

    #[test]
    fn a_whole_bzimage_is_accepted_and_a_truncated_one_is_not() {
        assert!(open(bzimage(4096, 256)).unwrap().decompresses_itself());
        assert!(open(bzimage(4096 - 15, 256)).is_ok(), "the last paragraph may be short");
        let error = open(bzimage(4096 - 16, 256)).unwrap_err();
        assert!(matches!(error, KernelError::Truncated { found: 5104, expected: 5120, .. }), "{error}");
        assert!(open(bzimage(0x201, 0)).is_ok());
        assert!(open(bzimage(0x200, 0)).is_err(), "nothing where it would be entered");
    }

    #[test]
    fn a_file_that_ends_within_its_header_is_truncated() {
        let mut bytes = bzimage(0, 0);
        bytes.truncate(HEADER_MAGIC_OFFSET + 10);
        assert!(matches!(open(bytes), Err(KernelError::Truncated { .. })));
    }

    #[test]
    fn other_files_are_named_for_what_they_are_not() {
        for bytes in [vec![], b"#!/bin/sh\n".to_vec(), vec![0; 100_000]] {
            let error = open(bytes).unwrap_err().to_string();
            assert!(error.starts_with("vmlinuz is not a Linux kernel"), "{error}");
        }
        let mut old = bzimage(16, 1);
        old[0x206] = 2;
        assert!(open(old).unwrap_err().to_string().contains("no 64-bit entry point"));
    }

    #[test]
    fn an_elf_image_is_checked_when_it_is_opened() {
        let whole = elf::tests::image(0x100);
        assert_eq!(open(whole.clone()).unwrap().end(), 0x20_1100);
        assert_eq!(open(whole.clone()).unwrap().loaded_range(), 0x20_0000..0x20_1100);
        assert!(!open(whole.clone()).unwrap().decompresses_itself());
        let error = open(whole[..whole.len() - 1].to_vec()).unwrap_err();
        assert!(matches!(error, KernelError::Truncated { .. }), "{error}");
        let mut foreign = whole;
        foreign[4] = 1;
        assert!(matches!(open(foreign), Err(KernelError::NotAKernel { .. })));
    }

    #[test]
    fn a_bzimage_needs_room_for_its_file_and_for_its_start() {
        let with = |init_size, pref_address| {
            let mut bytes = bzimage(8192, 512);
            let mut header = setup_header_of(&bytes).unwrap();
            (header.init_size, header.pref_address) = (init_size, pref_address);
            bytes[HEADER_OFFSET..HEADER_END].copy_from_slice(header.as_mut_slice());
            open(bytes).unwrap().end()
        };
        assert_eq!(with(0x10_0000, 0x100_0000), 0x110_0000);
        assert_eq!(with(0, 0), HIGH_RAM_START + DEFAULT_KERNEL_ROOM);
        assert_eq!(with(4096, 0), HIGH_RAM_START + 1024 + 8192, "the file is loaded whole");
        assert_eq!(with(u32::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn missing_files_and_directories_are_named() {
        let error = KernelImage::open(Path::new("/nonexistent/vmlinuz")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read kernel /nonexistent/vmlinuz: No such file"), "{error}");
        let error = KernelImage::open(Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("is a directory"), "{error}");
    }
}
