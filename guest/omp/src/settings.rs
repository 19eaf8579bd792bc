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

/// Where the runtime's own choice is atomic instructions for reductions of few threads, which are not for relaxed memory.
const REDUCTION_VARIABLE: &str = "KMP_FORCE_REDUCTION";
/// By a lock. Of the third way, the tree of a barrier, no tool is told when threads add up each other's parts.
const SAFE_REDUCTION: &str = "critical";
/// What puts the runtime's threads on processors. The last can keep it from doing so, and is given that value.
const PLACING_VARIABLES: [&str; 4] = ["OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"];
/// The value that keeps the runtime from putting threads anywhere.
const NO_PLACING: &str = "disabled";
/// How many threads there are.
const THREADS_VARIABLE: &str = "OMP_NUM_THREADS";

/// What the runtime is to find in the environment.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RuntimeSettings {
    /// Variables that get another value, or none.
    pub(crate) changes: Vec<(&'static str, Option<String>)>,
    /// What the user has asked for and does not get, in one line.
    pub(crate) ignored: Option<String>,
}

impl RuntimeSettings {
    /// For a program that may run on so many processors of several ranks, out of as many as the machine has; none on one rank. Or what is wrong with the
    /// environment in one line.
    pub(crate) fn new(
        variable: impl Fn(&str) -> Option<OsString>,
        processors: Option<(usize, usize)>,
    ) -> Result<Self, String> {
        let variable = |name| variable(name).filter(|value: &OsString| !value.is_empty());
        let mut settings = Self::default();
        let reduction = variable(REDUCTION_VARIABLE);
        if reduction.is_none() {
            settings.changes.push((REDUCTION_VARIABLE, Some(SAFE_REDUCTION.to_owned())));
        }
        let Some((allowed, all)) = processors else { return Ok(settings) };
        if let Some(other) = reduction.filter(|value| value != SAFE_REDUCTION) {
            let other = other.to_string_lossy();
            return Err(format!(
                "{REDUCTION_VARIABLE}={other}: on several ranks reductions are added up under a lock alone; take {SAFE_REDUCTION}, or unset it"
            ));
        }
        let chosen =
            PLACING_VARIABLES.into_iter().filter(|name| variable(name).is_some_and(|value| value != NO_PLACING));
        let chosen: Vec<_> = chosen.collect();
        if !chosen.is_empty() {
            let names = chosen.join(", ");
            settings.ignored = Some(format!(
                "{names} ignored: on several ranks this library puts each thread on a processor of its own"
            ));
        }
        let [before @ .., last] = PLACING_VARIABLES;
        settings.changes.extend(before.map(|name| (name, None)));
        settings.changes.push((last, Some(NO_PLACING.to_owned())));
        // Without placing the runtime counts all of the machine's.
        if allowed < all && variable(THREADS_VARIABLE).is_none() {
            settings.changes.push((THREADS_VARIABLE, Some(allowed.to_string())));
        }
        Ok(settings)
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

    fn runtime(set: &[(&str, &str)], processors: Option<(usize, usize)>) -> Result<RuntimeSettings, String> {
        let value = |name: &str| set.iter().find(|(other, _)| *other == name).map(|(_, value)| OsString::from(value));
        RuntimeSettings::new(value, processors)
    }

    #[test]
    fn the_runtime_leaves_threads_alone_on_several_ranks() {
        let critical = ("KMP_FORCE_REDUCTION", Some("critical".to_owned()));
        let on_one = runtime(&[("OMP_PLACES", "cores")], None).unwrap();
        assert_eq!(on_one, RuntimeSettings { changes: vec![critical.clone()], ignored: None });
        assert_eq!(runtime(&[("KMP_FORCE_REDUCTION", "atomic")], None), Ok(RuntimeSettings::default()));
        let placing = [
            ("OMP_PROC_BIND", None),
            ("OMP_PLACES", None),
            ("GOMP_CPU_AFFINITY", None),
            ("KMP_AFFINITY", Some("disabled".to_owned())),
        ];
        let on_all = runtime(&[("OMP_PLACES", ""), ("KMP_AFFINITY", "disabled")], Some((4, 4))).unwrap();
        let changes: Vec<_> = [critical].into_iter().chain(placing.clone()).collect();
        assert_eq!(on_all, RuntimeSettings { changes, ignored: None });
        let set = [("KMP_FORCE_REDUCTION", "critical"), ("OMP_PROC_BIND", "spread"), ("OMP_PLACES", "cores")];
        let on_some = runtime(&set, Some((3, 4))).unwrap();
        let threads = ("OMP_NUM_THREADS", Some("3".to_owned()));
        assert_eq!(on_some.changes, placing.into_iter().chain([threads]).collect::<Vec<_>>());
        assert!(on_some.ignored.unwrap().starts_with("OMP_PROC_BIND, OMP_PLACES ignored: "));
        let fewer = runtime(&[("OMP_NUM_THREADS", "2"), ("KMP_FORCE_REDUCTION", "critical")], Some((3, 4))).unwrap();
        assert!(!fewer.changes.iter().any(|(name, _)| *name == "OMP_NUM_THREADS"), "the user's own number stays");
        for other in ["atomic", "tree"] {
            let line = runtime(&[("KMP_FORCE_REDUCTION", other)], Some((4, 4))).unwrap_err();
            assert!(line.starts_with(&format!("KMP_FORCE_REDUCTION={other}: ")) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn statistics_go_where_they_are_sent() {
        let settings = Settings::read(|name| (name == STATISTICS_VARIABLE).then(|| "a file".into())).unwrap();
        assert_eq!(settings.statistics, Some(PathBuf::from("a file")));
    }
}
