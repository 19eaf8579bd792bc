//! The setup header of a bzImage (Linux Documentation, arch/x86/boot, "The Real-Mode Kernel Header").

/// Offsets in bytes from the start of the file.
const SETUP_SECTORS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// `kernel_version` counts from here.
const KERNEL_VERSION_BASE: usize = 0x200;
const SECTOR: usize = 512;
/// What a `setup_sects` of 0 means.
const SETUP_SECTORS_DEFAULT: usize = 4;
/// First boot protocol with payload fields.
const PROTOCOL_PAYLOAD: u16 = 0x0208;
/// What a kernel's banner starts with; the release follows.
const BANNER: &[u8] = b"Linux version ";

/// Why a file is not a kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// Neither an ELF file nor one with a boot sector and setup header.
    #[error("it has neither a bzImage's setup header nor an ELF header")]
    NotAKernel,
    /// It ends before what its header says.
    #[error("it is cut short")]
    Truncated,
    /// It does not say its release.
    #[error("it does not say its release")]
    NoRelease,
    /// Its boot protocol is older than 2.08.
    #[error("its boot protocol {0:#06x} is older than 2.08")]
    TooOld(u16),
}

pub(crate) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
}

/// The release of a kernel, as `uname -r` will show it, from its bzImage or ELF file.
///
/// # Errors
/// [`HeaderError`] when it is not a kernel or does not say.
pub fn release_of(image: &[u8]) -> Result<String, HeaderError> {
    let release = banner(image)?.split(|byte| matches!(byte, 0 | b' ')).next();
    // It becomes part of paths, so it must not lead elsewhere.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(byte);
    match release.and_then(|release| std::str::from_utf8(release).ok()) {
        Some(text) if !text.is_empty() && !text.starts_with('.') && text.bytes().all(|byte| plain(&byte)) => {
            Ok(text.to_owned())
        }
        Some(_) | None => Err(HeaderError::NoRelease),
    }
}

/// What a kernel says of itself, from its release on, and what follows that.
fn banner(image: &[u8]) -> Result<&[u8], HeaderError> {
    let text = if is_elf(image) {
        let at = image.windows(BANNER.len()).position(|bytes| bytes == BANNER).ok_or(HeaderError::NoRelease)?;
        image.get(at + BANNER.len()..)
    } else {
        let start = usize::from(SetupHeader::of(image)?.kernel_version) + KERNEL_VERSION_BASE;
        image.get(start..)
    };
    text.ok_or(HeaderError::Truncated)
}

/// The version of Debian's package that a kernel is from, which it says behind its release; nothing if it is from elsewhere.
pub(crate) fn debian_version_of(image: &[u8]) -> Option<String> {
    let text = banner(image).ok()?.split(|byte| matches!(byte, 0 | b'\n')).next()?;
    let (_, version) = std::str::from_utf8(text).ok()?.split_once(" Debian ")?;
    let version = version.split(' ').next()?;
    // It becomes part of a program's arguments.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".+~-:".contains(&byte);
    let is_one = version.starts_with(|c: char| c.is_ascii_digit()) && version.bytes().all(plain);
    is_one.then(|| version.to_owned())
}

/// The fields used here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetupHeader {
    protocol: u16,
    setup_sectors: u8,
    kernel_version: u16,
}

impl SetupHeader {
    pub(crate) fn of(image: &[u8]) -> Result<Self, HeaderError> {
        if image.get(BOOT_FLAG..BOOT_FLAG + 2) != Some(&[0x55, 0xaa]) || image.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
            return Err(HeaderError::NotAKernel);
        }
        Ok(Self {
            protocol: u16::from_le_bytes(bytes(image, VERSION)?),
            setup_sectors: u8::from_le_bytes(bytes(image, SETUP_SECTORS)?),
            kernel_version: u16::from_le_bytes(bytes(image, KERNEL_VERSION)?),
        })
    }

    /// The compressed kernel inside.
    pub(crate) fn payload<'a>(&self, image: &'a [u8]) -> Result<&'a [u8], HeaderError> {
        if self.protocol < PROTOCOL_PAYLOAD {
            return Err(HeaderError::TooOld(self.protocol));
        }
        let setup = match self.setup_sectors {
            0 => SETUP_SECTORS_DEFAULT,
            sectors => usize::from(sectors),
        };
        let field = |at| Ok(u32::from_le_bytes(bytes(image, at)?) as usize);
        let start = (setup + 1) * SECTOR + field(PAYLOAD_OFFSET)?;
        image.get(start..start + field(PAYLOAD_LENGTH)?).ok_or(HeaderError::Truncated)
    }
}

fn bytes<const N: usize>(image: &[u8], at: usize) -> Result<[u8; N], HeaderError> {
    image.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(HeaderError::Truncated)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A bzImage with this release and payload and nothing else that runs.
    pub(crate) fn bzimage(release: &str, payload: &[u8]) -> Vec<u8> {
        const PAYLOAD_AT: u32 = 0x40;
        let mut image = vec![0; 3 * SECTOR + PAYLOAD_AT as usize];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(SETUP_SECTORS, &[2]);
        put(BOOT_FLAG, &[0x55, 0xaa]);
        put(MAGIC, b"HdrS");
        put(VERSION, &0x020fu16.to_le_bytes());
        put(KERNEL_VERSION, &0x100u16.to_le_bytes());
        put(PAYLOAD_OFFSET, &PAYLOAD_AT.to_le_bytes());
        put(PAYLOAD_LENGTH, &u32::try_from(payload.len()).unwrap().to_le_bytes());
        put(KERNEL_VERSION_BASE + 0x100, format!("{release} (someone@host) #1 SMP\0").as_bytes());
        image.extend(payload);
        image
    }
}

#[cfg(test)]
mod tests {
    use super::testing::bzimage;
    use super::*;

    #[test]
    fn release_and_payload_are_read() {
        let image = bzimage("6.1.0-56-amd64", b"packed");
        assert_eq!(release_of(&image).unwrap(), "6.1.0-56-amd64");
        assert_eq!(SetupHeader::of(&image).unwrap().payload(&image).unwrap(), b"packed");
        assert_eq!(release_of(b"\x7fELF....Linux version 6.8.0-45-generic (buildd@x)").unwrap(), "6.8.0-45-generic");
    }

    #[test]
    fn a_release_that_is_no_plain_name_is_refused() {
        for release in ["", "../../etc", "a/b", ".hidden", "caf\u{e9}"] {
            assert_eq!(release_of(&bzimage(release, b"")), Err(HeaderError::NoRelease), "{release:?}");
        }
    }

    #[test]
    fn files_that_are_no_whole_kernel_are_told_apart() {
        let image = bzimage("6.1.0", b"packed");
        assert_eq!(release_of(b""), Err(HeaderError::NotAKernel));
        assert_eq!(release_of(&[0; 4096]), Err(HeaderError::NotAKernel));
        assert_eq!(release_of(&image[..0x210]), Err(HeaderError::Truncated));
        let header = SetupHeader::of(&image).unwrap();
        assert_eq!(header.payload(&image[..image.len() - 1]), Err(HeaderError::Truncated));
        assert!(header.payload(&image).is_ok());
        let mut old = image.clone();
        old[VERSION..VERSION + 2].copy_from_slice(&0x0207u16.to_le_bytes());
        assert_eq!(SetupHeader::of(&old).unwrap().payload(&old), Err(HeaderError::TooOld(0x0207)));
    }
}
