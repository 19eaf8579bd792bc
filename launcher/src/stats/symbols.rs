//! Names of the guest kernel's functions, from its System.map (nm(1)'s format: address, type, name).
//!
//! The kernel's text has the bounds that Linux goes by when it makes its own table of symbols (`text_ranges` in `scripts/kallsyms.c`). Modules
//! are above it, where no System.map has anything.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Longest System.map in bytes; a distribution's has some MiB.
const MAX_BYTES: u64 = 64 << 20;

/// Fewest symbols of a kernel: Debian's own file is a line that says where the real one is.
const MIN_SYMBOLS: usize = 100;

/// The linker script's names for where the kernel's text begins and ends.
const TEXT: [&str; 2] = ["_stext", "_etext"];

/// The same of the text that is freed after boot; a kernel may be without.
const INIT_TEXT: [&str; 2] = ["_sinittext", "_einittext"];

/// Why there are no names.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SymbolsError {
    #[error("--system-map {0} cannot be read: {1}; name the guest kernel's System.map")]
    Unreadable(PathBuf, io::Error),
    #[error("--system-map {0} is no System.map: it has {1} symbols; Debian's is in the kernel's -dbg package")]
    NoSymbols(PathBuf, usize),
    #[error(
        "--system-map {0} does not tell where the kernel's text is: it has no _stext and _etext; name the whole System.map"
    )]
    NoText(PathBuf),
}

/// A kernel's functions, by address.
#[derive(Debug)]
pub(crate) struct Symbols {
    functions: Vec<(u64, String)>,
    /// Where they are; what is elsewhere is none of them.
    text: Vec<Range<u64>>,
}

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
        if symbols.functions.len() < MIN_SYMBOLS {
            return Err(SymbolsError::NoSymbols(path.to_owned(), symbols.functions.len()));
        }
        if symbols.text.is_empty() { Err(SymbolsError::NoText(path.to_owned())) } else { Ok(symbols) }
    }

    fn parse(text: &str) -> Self {
        let mut functions = Vec::new();
        let (mut bounds, mut init_bounds) = ([None; 2], [None; 2]);
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            // Of whatever type: linkers give a symbol between two sections that of either, or none.
            for (names, bounds) in [(TEXT, &mut bounds), (INIT_TEXT, &mut init_bounds)] {
                if let Some(at) = names.iter().position(|bound| *bound == name) {
                    bounds[at] = Some(address);
                }
            }
            if ["t", "T", "w", "W"].contains(&kind) {
                functions.push((address, name.to_owned()));
            }
        }
        functions.sort();
        let ranges = [bounds, init_bounds].into_iter().filter_map(|[start, end]| Some(start?..end?));
        Self { functions, text: ranges.filter(|range| !range.is_empty()).collect() }
    }

    /// The function that an address is in, if it is in the kernel's text: not in a module or a program.
    pub(crate) fn function(&self, address: u64) -> Option<&str> {
        let text = self.text.iter().find(|text| text.contains(&address))?;
        let after = self.functions.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.functions.get(after.checked_sub(1)?)?;
        text.contains(start).then_some(name.as_str())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two functions of the kernel and one of its boot, with a gap between, and what is none.
    const MAP: &str = "ffffffff81000100 t second
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000180 T _etext
ffffffff81800000 D data
ffffffff81900000 T _sinittext
ffffffff81900010 t start_kernel
ffffffff81900090 R _einittext
ffffffff819000a0 t exit_driver
bad
1000 T
";

    pub(crate) fn symbols() -> Symbols {
        Symbols::parse(MAP)
    }

    #[test]
    fn an_address_is_in_the_function_that_starts_before_it() {
        let function = |address| symbols().function(address).map(str::to_owned);
        assert_eq!(function(0xffff_ffff_8100_0000).as_deref(), Some("_text"));
        assert_eq!(function(0xffff_ffff_8100_00ff).as_deref(), Some("_text"));
        assert_eq!(function(0xffff_ffff_8100_0100).as_deref(), Some("second"));
        assert_eq!(function(0xffff_ffff_8190_000f).as_deref(), Some("_sinittext"));
        assert_eq!(function(0xffff_ffff_8190_0010).as_deref(), Some("start_kernel"));
    }

    #[test]
    fn what_is_not_in_the_kernels_text_has_no_name() {
        let function = |address| symbols().function(address).map(str::to_owned);
        assert_eq!(function(0x40_0000), None, "a program's address");
        assert_eq!(function(0xffff_ffff_80ff_ffff), None, "below all");
        assert_eq!(function(0xffff_ffff_8100_017f).as_deref(), Some("second"), "the last byte of text");
        assert_eq!(function(0xffff_ffff_8100_0180), None, "_etext is after it");
        assert_eq!(function(0xffff_ffff_8180_0000), None, "data");
        assert_eq!(function(0xffff_ffff_818f_ffff), None, "the last byte before the text of the boot");
        assert_eq!(function(0xffff_ffff_8190_008f).as_deref(), Some("start_kernel"), "its last byte");
        assert_eq!(function(0xffff_ffff_8190_0090), None, "_einittext is after it");
        assert_eq!(function(0xffff_ffff_8190_00a0), None, "beyond both");
        assert_eq!(function(0xffff_ffff_c000_0000), None, "a module");
        assert_eq!(function(u64::MAX), None);
    }

    #[test]
    fn text_begins_with_its_own_functions_and_may_be_all_there_is() {
        let parse = Symbols::parse;
        let late = parse("10 T f\n10 A _stext\n20 A _etext\n80 A _sinittext\n88 t g\n90 A _einittext\n");
        assert_eq!((late.function(0x84), late.function(0x88)), (None, Some("g")));
        let one = parse("10 T _stext\n20 T _etext\n80 T _sinittext\n");
        assert_eq!((one.function(0x1f), one.function(0x80)), (Some("_stext"), None));
        assert!(parse("20 T _stext\n10 T _etext\n").text.is_empty());
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
        assert!(matches!(Symbols::read(&path), Err(SymbolsError::NoText(_))));
        std::fs::write(&path, lines(MIN_SYMBOLS) + "0 T _stext\n64 T _etext\n").unwrap();
        assert_eq!(Symbols::read(&path).unwrap().function(5), Some("f5"));
    }
}
