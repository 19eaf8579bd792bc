//! `--disk FILE[,ro]`.

use std::path::PathBuf;
use std::str::FromStr;

/// A disk as the user names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DiskArg {
    pub(crate) file: PathBuf,
    pub(crate) read_only: bool,
}

/// Why a text does not name a disk.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("no file name: write --disk FILE or --disk FILE,ro")]
pub(crate) struct DiskArgError;

impl FromStr for DiskArg {
    type Err = DiskArgError;

    /// A comma belongs to the name unless it starts a final `,ro`.
    fn from_str(text: &str) -> Result<Self, DiskArgError> {
        let (file, read_only) = match text.strip_suffix(",ro") {
            Some(file) => (file, true),
            None => (text, false),
        };
        if file.is_empty() {
            return Err(DiskArgError);
        }
        Ok(Self { file: PathBuf::from(file), read_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_final_ro_is_an_option() {
        let expected = [
            ("a.img", "a.img", false),
            ("a.img,ro", "a.img", true),
            ("a,ro,b", "a,ro,b", false),
            ("a,rw", "a,rw", false),
        ];
        for (text, file, read_only) in expected {
            assert_eq!(text.parse(), Ok(DiskArg { file: file.into(), read_only }));
        }
        assert_eq!(",ro".parse::<DiskArg>(), Err(DiskArgError));
        assert_eq!("".parse::<DiskArg>(), Err(DiskArgError));
    }
}
