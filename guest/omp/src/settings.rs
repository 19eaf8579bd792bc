//! What can be chosen, by environment variables.

use std::ffi::OsString;
use std::path::PathBuf;

/// From how many bytes on allocations are in relaxed memory: bytes, or a number with K, M or G.
pub(crate) const LARGE_VARIABLE: &str = "VINCS_OMP_LARGE";

/// File for the counters when the program ends.
pub(crate) const STATISTICS_VARIABLE: &str = "VINCS_OMP_STATS";

/// Without [`LARGE_VARIABLE`]: where the C library begins to map allocations singly (M_MMAP_THRESHOLD in mallopt(3)).
const LARGE: usize = 128 << 10;

/// The least that can be chosen: pages are what moves between ranks, and small things share theirs with the allocator's own.
const LEAST: usize = 4096;

#[derive(Debug, PartialEq)]
pub(crate) struct Settings {
    /// Bytes.
    pub(crate) large: usize,
    pub(crate) statistics: Option<PathBuf>,
}

impl Settings {
    /// As the environment has them, or what is wrong with it in one line.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, String> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let large = match variable(LARGE_VARIABLE) {
            None => LARGE,
            Some(value) => value.to_str().and_then(size).filter(|size| *size >= LEAST).ok_or_else(|| {
                let value = value.to_string_lossy();
                format!("{LARGE_VARIABLE}={value}: not a size of {LEAST} bytes or more; give bytes, or a number with K, M or G")
            })?,
        };
        Ok(Self { large, statistics: variable(STATISTICS_VARIABLE).map(PathBuf::from) })
    }
}

/// Bytes of a number with or without a unit.
fn size(text: &str) -> Option<usize> {
    let units = [('K', 10), ('M', 20), ('G', 30)];
    let unit = units.into_iter().find_map(|(unit, power)| Some((text.strip_suffix(unit)?, power)));
    let (digits, power) = unit.unwrap_or((text, 0));
    // from_str would take a sign.
    let number: usize = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
    number.checked_mul(1 << power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(large: Option<&str>) -> Result<Settings, String> {
        Settings::read(|name| large.filter(|_| name == LARGE_VARIABLE).map(OsString::from))
    }

    #[test]
    fn sizes_have_units_and_a_least() {
        for (text, bytes) in [("4096", 4096), ("4K", 4096), ("3M", 3 << 20), ("2G", 2 << 30)] {
            assert_eq!(read(Some(text)), Ok(Settings { large: bytes, statistics: None }));
        }
        assert_eq!(read(None), read(Some("128K")));
        assert_eq!(read(None), read(Some("")), "nothing is chosen");
        for wrong in ["4095", "0", "-1", "+8192", "K", "8192k", "1.5M", "many", "99999999999999999999", "99999999999G"]
        {
            let line = read(Some(wrong)).unwrap_err();
            assert!(line.starts_with(&format!("VINCS_OMP_LARGE={wrong}: ")) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn statistics_go_where_they_are_sent() {
        let settings = Settings::read(|name| (name == STATISTICS_VARIABLE).then(|| "a file".into())).unwrap();
        assert_eq!(settings.statistics, Some(PathBuf::from("a file")));
    }
}
