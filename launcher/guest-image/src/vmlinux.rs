//! The ELF kernel inside a bzImage. A guest that is started with it need not decompress itself, which takes seconds
//! where its first instructions run slowly.

use crate::cache::Cache;
use crate::compression::{Compression, DecompressError};
use crate::file::{self, FileError};
use crate::kernel::{HeaderError, Kernel, SetupHeader, is_elf};
use elf::ElfBytes;
use elf::endian::LittleEndian;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The build appends the length of the content to what it compressed, 32 bits, little-endian (gzip has it already).
const LENGTH_BYTES: usize = 4;

/// Mode of the file in the cache: whoever may enter the cache may boot it.
const MODE: u32 = 0o644;

/// Why a kernel's ELF cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VmlinuxError {
    /// It is not a bzImage.
    #[error("not a bzImage: {0}")]
    Header(#[from] HeaderError),
    /// It is compressed in another way than gzip, xz and zstd.
    #[error("the kernel is compressed neither with gzip nor xz nor zstd: boot its bzImage as it is")]
    Compression,
    /// Its content is damaged.
    #[error("the kernel is damaged: {0}")]
    Damaged(#[from] DecompressError),
    /// Its content has another length than it says.
    #[error("the kernel is damaged: it has {found} bytes inside and says {said}")]
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        said: usize,
    },
    /// Its content is not an x86-64 ELF program.
    #[error("the kernel's content is not an x86-64 ELF program")]
    NotAnX86Elf,
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The ELF inside a bzImage.
///
/// # Errors
/// [`VmlinuxError`] when it is damaged or compressed in an unknown way.
pub fn extract(bzimage: &[u8]) -> Result<Vec<u8>, VmlinuxError> {
    let payload = SetupHeader::of(bzimage)?.payload(bzimage)?;
    let format = Compression::of(payload).ok_or(VmlinuxError::Compression)?;
    let elf = format.decompress(payload)?;
    let said = payload.last_chunk::<LENGTH_BYTES>().map(|bytes| u32::from_le_bytes(*bytes) as usize);
    match said {
        Some(said) if said == elf.len() => {}
        Some(_) | None => return Err(VmlinuxError::Length { found: elf.len(), said: said.unwrap_or(0) }),
    }
    if is_x86_program(&elf) { Ok(elf) } else { Err(VmlinuxError::NotAnX86Elf) }
}

/// The ELF of a kernel in the cache, as a file beside it: extracted the first time. Nothing for kernels elsewhere, whose
/// folder is not ours to write to, and for kernels compressed in an unknown way: boot these as they are.
///
/// # Errors
/// [`VmlinuxError`]; the bzImage itself may boot nevertheless.
pub fn prepare(kernel: &Kernel, cache: &Cache) -> Result<Option<PathBuf>, VmlinuxError> {
    let tree = cache.kernels().join(&kernel.release);
    if !kernel.image.starts_with(&tree) {
        return Ok(None);
    }
    let place = tree.join("vmlinux");
    if place.is_file() {
        return Ok(Some(place));
    }
    let image = file::read(&kernel.image)?;
    let elf = match extract(&image) {
        Err(VmlinuxError::Compression) => return Ok(None),
        _ if is_elf(&image) => image,
        extracted => extracted?,
    };
    // Written beside it and renamed, so that nobody ever sees half of it.
    let unfinished = tempfile::Builder::new().permissions(Permissions::from_mode(MODE)).tempfile_in(&tree);
    let mut unfinished = unfinished.map_err(FileError::from("create a file in", &tree))?;
    unfinished.write_all(&elf).map_err(FileError::from("write", &place))?;
    unfinished.persist(&place).map_err(|error| FileError::from("create", &place)(error.error))?;
    Ok(Some(place))
}

fn is_x86_program(bytes: &[u8]) -> bool {
    let Ok(file) = ElfBytes::<LittleEndian>::minimal_parse(bytes) else { return false };
    let Some(segments) = file.segments() else { return false };
    let mut loaded = segments.iter().filter(|segment| segment.p_type == elf::abi::PT_LOAD).peekable();
    let inside = |offset: u64, length: u64| offset.checked_add(length).is_some_and(|end| end <= bytes.len() as u64);
    file.ehdr.e_machine == elf::abi::EM_X86_64
        && loaded.peek().is_some()
        && loaded.all(|segment| inside(segment.p_offset, segment.p_filesz))
}

#[cfg(test)]
pub(crate) mod testing {
    use crate::compression::testing::gzip;
    use crate::kernel::testing::bzimage;

    /// An x86-64 ELF program with one segment of `length` bytes in the file.
    pub(crate) fn program(length: u64) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        bytes.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        bytes.extend([0; 8]);
        bytes.extend(64u64.to_le_bytes()); // program headers follow
        bytes.extend([0; 12]);
        bytes.extend([64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
        bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, readable, executable
        bytes.extend(120u64.to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend([length.to_le_bytes(), length.to_le_bytes(), [0; 8]].concat());
        bytes.extend([0x90; 16]);
        bytes
    }

    /// A kernel that holds such a program.
    pub(crate) fn kernel(release: &str) -> Vec<u8> {
        bzimage(release, &gzip(&program(16)))
    }
}

#[cfg(test)]
mod tests {
    use super::testing::program;
    use super::*;
    use crate::compression::testing::{gzip, xz, zstd};
    use crate::kernel::testing::bzimage;

    fn with_length(packed: Vec<u8>, length: usize) -> Vec<u8> {
        [packed, u32::try_from(length).unwrap().to_le_bytes().to_vec()].concat()
    }

    #[test]
    fn the_program_comes_out_of_each_compression() {
        let elf = program(16);
        for payload in [gzip(&elf), with_length(xz(&elf), elf.len()), with_length(zstd(&elf), elf.len())] {
            assert!(extract(&bzimage("6.1.0", &payload)).unwrap() == elf);
        }
    }

    #[test]
    fn what_is_damaged_or_something_else_is_an_error() {
        let elf = program(16);
        let result = |payload: Vec<u8>| extract(&bzimage("6.1.0", &payload));
        assert!(matches!(result(with_length(zstd(&elf), elf.len() + 1)), Err(VmlinuxError::Length { .. })));
        assert!(matches!(result(b"lz4 or so".to_vec()), Err(VmlinuxError::Compression)));
        assert!(matches!(result(xz(&elf)[..30].to_vec()), Err(VmlinuxError::Damaged(_))));
        assert!(matches!(result(gzip(b"text")), Err(VmlinuxError::NotAnX86Elf)));
        assert!(matches!(result(gzip(&program(17))), Err(VmlinuxError::NotAnX86Elf)), "a segment beyond the end");
        assert!(matches!(extract(b"MZ"), Err(VmlinuxError::Header(HeaderError::NotAKernel))));
    }

    #[test]
    fn an_unknown_compression_is_left_to_the_kernel_itself() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let tree = cache.kernels().join("6.1.0");
        std::fs::create_dir_all(&tree).unwrap();
        let image = tree.join("vmlinuz");
        std::fs::write(&image, bzimage("6.1.0", b"lz4 or so")).unwrap();
        let kernel = Kernel { image, modules: tree, release: "6.1.0".into() };
        assert_eq!(prepare(&kernel, &cache).unwrap(), None);
    }

    #[test]
    fn it_is_extracted_once_and_only_inside_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let tree = cache.kernels().join("6.1.0");
        std::fs::create_dir_all(&tree).unwrap();
        let image = tree.join("vmlinuz");
        std::fs::write(&image, testing::kernel("6.1.0")).unwrap();
        let kernel = Kernel { image: image.clone(), modules: tree.clone(), release: "6.1.0".into() };
        let place = prepare(&kernel, &cache).unwrap().unwrap();
        assert!(std::fs::read(&place).unwrap() == program(16));
        std::fs::remove_file(&image).unwrap();
        assert_eq!(prepare(&kernel, &cache).unwrap(), Some(place), "the kernel is not read again");
        let elsewhere = Kernel { image: folder.path().join("vmlinuz"), ..kernel };
        assert_eq!(prepare(&elsewhere, &cache).unwrap(), None);
    }
}
