//! Names of the guest kernel's functions, from its System.map (nm(1)'s format: address, type, name).

use std::io;
use std::path::{Path, PathBuf};

/// Longest System.map in bytes; a distribution's has some MiB.
const MAX_BYTES: u64 = 64 << 20;

/// Fewest symbols of a kernel: Debian's own file is a line that says where the real one is.
const MIN_SYMBOLS: usize = 100;

/// Why there are no names.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SymbolsError {
    #[error("--system-map {0} cannot be read: {1}; name the guest kernel's System.map")]
    Unreadable(PathBuf, io::Error),
    #[error("--system-map {0} is no System.map: it has {1} symbols; Debian's is in the kernel's -dbg package")]
    NoSymbols(PathBuf, usize),
}

/// A kernel's functions, by address.
#[derive(Debug)]
pub(crate) struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// Reads a System.map.
    ///
    /// # Errors
    /// [`SymbolsError`] when it is none.
    pub(crate) fn read(path: &Path) -> Result<Self, SymbolsError> {
        let unreadable = |error| SymbolsError::Unreadable(path.to_owned(), error);
        if path.metadata().map_err(unreadable)?.len() > MAX_BYTES {
            return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
        }
        let symbols = Self::parse(&String::from_utf8_lossy(&std::fs::read(path).map_err(unreadable)?));
        match symbols.0.len() {
            ..MIN_SYMBOLS => Err(SymbolsError::NoSymbols(path.to_owned(), symbols.0.len())),
            _ => Ok(symbols),
        }
    }

    fn parse(text: &str) -> Self {
        let symbol = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            words.next().filter(|kind| ["t", "T", "w", "W"].contains(kind))?;
            Some((address, words.next()?.to_owned()))
        };
        let mut symbols: Vec<_> = text.lines().filter_map(symbol).collect();
        symbols.sort();
        Self(symbols)
    }

    /// The function that an address is in, if it is not below all of them.
    pub(crate) fn function(&self, address: u64) -> Option<&str> {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        self.0.get(after.checked_sub(1)?).map(|(_, name)| name.as_str())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two functions, and what is none.
    pub(crate) fn symbols() -> Symbols {
        Symbols::parse("ffffffff81000100 t second\nffffffff81000000 T _text\nffffffff82000000 D data\nbad\n1000 T\n")
    }

    #[test]
    fn an_address_is_in_the_function_that_starts_before_it() {
        let function = |address| symbols().function(address).map(str::to_owned);
        assert_eq!(function(0xffff_ffff_8100_00ff).as_deref(), Some("_text"));
        assert_eq!(function(0xffff_ffff_8100_0100).as_deref(), Some("second"));
        assert_eq!(function(u64::MAX).as_deref(), Some("second"));
        assert_eq!(function(0x40_0000), None, "a program's address");
    }

    #[test]
    fn a_file_without_symbols_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("System.map");
        let message = Symbols::read(&path).unwrap_err().to_string();
        assert!(message.contains("--system-map") && message.contains("System.map"), "{message}");
        std::fs::write(&path, "ffffffffffffffff B The real System.map is in the -dbg package\n").unwrap();
        assert!(matches!(Symbols::read(&path), Err(SymbolsError::NoSymbols(_, 0))));
        let lines = |count: usize| (0..count).map(|n| format!("{n:x} T f{n}\n")).collect::<String>();
        std::fs::write(&path, lines(MIN_SYMBOLS - 1)).unwrap();
        assert!(matches!(Symbols::read(&path), Err(SymbolsError::NoSymbols(_, 99))));
        std::fs::write(&path, lines(MIN_SYMBOLS)).unwrap();
        assert_eq!(Symbols::read(&path).unwrap().function(5), Some("f5"));
    }
}
