//! Kernel images: reading and checking them before any machine exists.

use std::fs;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use linux_loader::bootparam::setup_header;
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::elf::Elf;
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap};

use crate::layout::HIGH_RAM_START;

const ELF_MAGIC: &[u8] = b"\x7fELF";
/// Offset of the setup header in a bzImage.
const HEADER_OFFSET: usize = 0x1f1;
const HEADER_MAGIC_OFFSET: usize = 0x202;
const HEADER_MAGIC: &[u8] = b"HdrS";
const SECTOR: usize = 512;
/// `setup_sects` of zero stands for this many.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// `syssize` counts paragraphs of this many bytes.
const PARAGRAPH: u64 = 16;
/// Boot protocol 2.12 tells of a 64-bit entry point, at this offset into the loaded kernel.
const ENTRY_64_OFFSET: u64 = 0x200;
const PROTOCOL_64_BIT: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
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
    BzImage,
    Elf,
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
        let not_a_kernel = |what: &str| KernelError::NotAKernel { path: path.to_owned(), what: what.to_owned() };
        let kind = if bytes.starts_with(ELF_MAGIC) {
            Kind::Elf
        } else if bytes.get(HEADER_MAGIC_OFFSET..HEADER_MAGIC_OFFSET + HEADER_MAGIC.len()) == Some(HEADER_MAGIC) {
            Kind::BzImage
        } else {
            return Err(not_a_kernel("it has neither the boot header of a bzImage nor an ELF header"));
        };
        let image = Self { path: path.to_owned(), bytes, kind };
        if kind == Kind::BzImage {
            let header = image.header()?;
            if header.version < PROTOCOL_64_BIT || header.xloadflags & XLF_KERNEL_64 == 0 {
                return Err(not_a_kernel("it has no 64-bit entry point"));
            }
            let setup_sectors = if header.setup_sects == 0 { DEFAULT_SETUP_SECTORS } else { header.setup_sects };
            let setup = (usize::from(setup_sectors) + 1) * SECTOR;
            let expected = setup as u64 + u64::from(header.syssize) * PARAGRAPH;
            // The last paragraph may be cut short: images need not be a multiple of 16 bytes long.
            if (image.bytes.len() as u64).saturating_add(PARAGRAPH) <= expected {
                return Err(KernelError::Truncated {
                    path: path.to_owned(),
                    found: image.bytes.len() as u64,
                    expected,
                });
            }
        }
        Ok(image)
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

    /// Bytes of memory it takes while it starts, from 1 MiB up; zero when it does not tell.
    #[must_use]
    pub fn init_size(&self) -> u64 {
        match self.kind {
            Kind::BzImage => self.header().map_or(0, |header| header.init_size.into()),
            Kind::Elf => elf_end(&self.bytes).unwrap_or(self.bytes.len() as u64),
        }
    }

    /// Where it wants to start; zero when it does not tell.
    pub(super) fn preferred_address(&self) -> u64 {
        match self.kind {
            Kind::BzImage => self.header().map_or(0, |header| header.pref_address),
            Kind::Elf => 0,
        }
    }

    /// Highest address its initramfs may have, if it tells.
    pub(super) fn initrd_max(&self) -> Option<u32> {
        match self.kind {
            Kind::BzImage => self.header().ok().map(|header| header.initrd_addr_max),
            // Kernels that come as ELF are recent: the limit is that of boot protocol 2.03 and later.
            Kind::Elf => Some(0x7fff_ffff),
        }
    }

    /// Loads it into guest memory.
    pub(super) fn load(&self, memory: &GuestMemoryMmap) -> Result<Loaded, KernelError> {
        let mut file = Cursor::new(self.bytes.as_slice());
        let start = Some(GuestAddress(HIGH_RAM_START));
        let failed = |error: linux_loader::loader::Error| KernelError::NotAKernel {
            path: self.path.clone(),
            what: error.to_string(),
        };
        let loaded: KernelLoaderResult = match self.kind {
            Kind::BzImage => BzImage::load(memory, None, &mut file, start),
            Kind::Elf => Elf::load(memory, None, &mut file, start),
        }
        .map_err(failed)?;
        let header = match loaded.setup_header {
            Some(header) => header,
            None => header_for_elf(),
        };
        let entry = match self.kind {
            Kind::BzImage => GuestAddress(loaded.kernel_load.0 + ENTRY_64_OFFSET),
            Kind::Elf => loaded.kernel_load,
        };
        Ok(Loaded { entry, end: loaded.kernel_end, header })
    }

    fn header(&self) -> Result<setup_header, KernelError> {
        let size = size_of::<setup_header>();
        let bytes = self.bytes.get(HEADER_OFFSET..HEADER_OFFSET + size);
        let header = bytes.map(|bytes| {
            let mut header = setup_header::default();
            header.as_mut_slice().copy_from_slice(bytes);
            header
        });
        header.ok_or_else(|| KernelError::Truncated {
            path: self.path.clone(),
            found: self.bytes.len() as u64,
            expected: (HEADER_OFFSET + size) as u64,
        })
    }
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

/// First address after the segments of a 64-bit ELF image (System V ABI, "Program Header").
fn elf_end(bytes: &[u8]) -> Option<u64> {
    const PROGRAM_HEADERS: usize = 0x20;
    const ENTRY_SIZE: usize = 0x36;
    const ENTRY_COUNT: usize = 0x38;
    const PHYSICAL_ADDRESS: usize = 0x18;
    const MEMORY_SIZE: usize = 0x28;
    let u16_at = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let table = usize::try_from(u64_at(PROGRAM_HEADERS)?).ok()?;
    let size = usize::from(u16_at(ENTRY_SIZE)?);
    let ends = (0..usize::from(u16_at(ENTRY_COUNT)?)).map(|index| {
        let header = table.checked_add(index * size)?;
        u64_at(header.checked_add(PHYSICAL_ADDRESS)?)?.checked_add(u64_at(header.checked_add(MEMORY_SIZE)?)?)
    });
    ends.collect::<Option<Vec<u64>>>()?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage of `payload` bytes behind one setup sector, its header claiming `claimed` paragraphs.
    fn bzimage(payload: usize, claimed: u32) -> Vec<u8> {
        let mut header =
            setup_header { setup_sects: 1, syssize: claimed, version: 0x020f, xloadflags: 1, ..header_for_elf() };
        let mut bytes = vec![0; 2 * SECTOR + payload];
        let end = HEADER_OFFSET + size_of::<setup_header>();
        bytes[HEADER_OFFSET..end].copy_from_slice(header.as_mut_slice());
        bytes
    }

    fn open(bytes: Vec<u8>) -> Result<KernelImage, KernelError> {
        KernelImage::from_bytes(Path::new("vmlinuz"), bytes)
    }

    #[test]
    fn a_whole_bzimage_is_accepted_and_a_truncated_one_is_not() {
        assert!(open(bzimage(4096, 256)).is_ok());
        assert!(open(bzimage(4096 - 15, 256)).is_ok(), "the last paragraph may be short");
        let error = open(bzimage(4096 - 16, 256)).unwrap_err();
        assert!(matches!(error, KernelError::Truncated { found: 5104, expected: 5120, .. }), "{error}");
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
    fn an_elf_image_ends_after_its_last_segment() {
        let mut bytes = vec![0; 0x40 + 2 * 0x38];
        bytes[0x20] = 0x40;
        bytes[0x36] = 0x38;
        bytes[0x38] = 2;
        bytes[0x40 + 0x18 + 2] = 0x20;
        bytes[0x40 + 0x28 + 1] = 0x10;
        bytes[0x78 + 0x18 + 2] = 0x10;
        assert_eq!(elf_end(&bytes), Some(0x20_1000));
        assert_eq!(elf_end(&bytes[..0x90]), None, "the table is cut off");
    }

    #[test]
    fn missing_files_and_directories_are_named() {
        let error = KernelImage::open(Path::new("/nonexistent/vmlinuz")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read kernel /nonexistent/vmlinuz: No such file"), "{error}");
        let error = KernelImage::open(Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("is a directory"), "{error}");
    }
}
