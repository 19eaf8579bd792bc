//! What a module says about itself: the `.modinfo` section, `NAME=VALUE` strings with a NUL after each.

use elf::ElfBytes;
use elf::endian::AnyEndian;

/// Why a module's `.modinfo` cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ModuleInfoError {
    /// It is not an ELF file, or a damaged one.
    #[error("{0}")]
    Elf(#[from] elf::ParseError),
    /// It has no `.modinfo`.
    #[error("it has no .modinfo section")]
    NoSection,
}

/// The entries of `.modinfo` that say what to load before a module.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct ModuleInfo {
    /// Modules whose symbols it uses.
    pub(super) depends: Vec<String>,
    /// Modules or aliases it asks to have loaded before it, if they exist.
    pub(super) soft_before: Vec<String>,
}

impl ModuleInfo {
    /// Reads it from a module, not compressed.
    pub(super) fn read(module: &[u8]) -> Result<Self, ModuleInfoError> {
        let file = ElfBytes::<AnyEndian>::minimal_parse(module)?;
        let section = file.section_header_by_name(".modinfo")?.ok_or(ModuleInfoError::NoSection)?;
        let (bytes, _) = file.section_data(&section)?;
        Ok(Self::parse(bytes))
    }

    fn parse(section: &[u8]) -> Self {
        let mut info = Self::default();
        for entry in section.split(|&byte| byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            match entry.split_once('=') {
                Some(("depends", list)) => {
                    info.depends.extend(list.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
                }
                Some(("softdep", list)) => info.soft_before.extend(before(list)),
                Some(_) | None => {}
            }
        }
        info
    }
}

/// The names between `pre:` and `post:` of a soft dependency (modprobe.d(5)).
fn before(list: &str) -> Vec<String> {
    let words = list.split_whitespace().skip_while(|&word| word != "pre:").skip(1);
    words.take_while(|&word| word != "post:").map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_taken_from_their_entries_only() {
        let info =
            ModuleInfo::parse(b"license=GPL\0depends=jbd2,mbcache,crc16\0\0softdep=pre: crypto-crc32c\0name=ext4\0");
        assert_eq!(info.depends, ["jbd2", "mbcache", "crc16"]);
        assert_eq!(info.soft_before, ["crypto-crc32c"]);
        assert_eq!(ModuleInfo::parse(b"depends=\0alias=depends\0"), ModuleInfo::default());
    }

    #[test]
    fn only_what_comes_before_a_module_counts() {
        assert_eq!(before("pre: a b post: c"), ["a", "b"]);
        assert_eq!(before("post: c"), [""; 0]);
        assert_eq!(before("post: c pre: a"), ["a"]);
    }

    #[test]
    fn damaged_files_are_errors() {
        assert!(matches!(ModuleInfo::read(b""), Err(ModuleInfoError::Elf(_))));
        assert!(matches!(ModuleInfo::read(b"\x7fELF\x02\x01\x01"), Err(ModuleInfoError::Elf(_))));
    }
}
