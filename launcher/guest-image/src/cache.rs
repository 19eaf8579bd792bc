//! Where vincs keeps what it fetched or unpacked.
//!
//! `kernels/RELEASE` in it is an unpacked kernel package: `boot/vmlinuz-RELEASE`, `lib/modules/RELEASE` (or
//! `usr/lib/modules/RELEASE`), and `vmlinux` once it was extracted. `tools` has static programs for emulated nodes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Environment variable that names the cache folder.
pub const CACHE_VARIABLE: &str = "VINCS_CACHE";

/// Why there is no cache folder.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// No variable says where it is.
    #[error("no folder for vincs's cache: set {CACHE_VARIABLE}, XDG_CACHE_HOME or HOME")]
    NoHome,
}

/// The cache folder. It need not exist.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache in the folder `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The user's cache: `$VINCS_CACHE`, else `$XDG_CACHE_HOME/vincs`, else `$HOME/.cache/vincs`.
    ///
    /// # Errors
    /// [`CacheError`] when none of them is set.
    pub fn from_env() -> Result<Self, CacheError> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, CacheError> {
        // An empty variable counts as unset, as the XDG specification has it.
        let folder = |name| get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = folder(CACHE_VARIABLE)
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("vincs")))
            .or_else(|| folder("HOME").map(|home| home.join(".cache/vincs")));
        root.map(|root| Self { root }).ok_or(CacheError::NoHome)
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the unpacked kernels, one folder each, named by release.
    #[must_use]
    pub fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    /// The folder of the programs that need no libraries.
    #[must_use]
    pub fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// Releases of the kernels in it, newest first. Empty when there are none or the folder cannot be read.
    #[must_use]
    pub fn releases(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.kernels()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // A folder whose name starts with a dot is one that is being unpacked.
        let mut releases: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        releases.sort_by_cached_key(|release| std::cmp::Reverse(version_key(release)));
        releases
    }
}

/// Orders releases by their numbers: 6.1.0-9 is before 6.1.0-10.
fn version_key(release: &str) -> (Vec<u64>, String) {
    let numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok());
    (numbers.collect(), release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_set_names_the_folder() {
        let cache = |set: &[(&str, &str)]| {
            let get = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
            Cache::from_variables(get).map(|cache| cache.root().to_owned())
        };
        let all = [("VINCS_CACHE", "/v"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(cache(&all).unwrap(), Path::new("/v"));
        assert_eq!(cache(&all[1..]).unwrap(), Path::new("/x/vincs"));
        assert_eq!(cache(&all[2..]).unwrap(), Path::new("/h/.cache/vincs"));
        assert_eq!(cache(&[("VINCS_CACHE", ""), ("HOME", "/h")]).unwrap(), Path::new("/h/.cache/vincs"));
        assert!(cache(&[]).unwrap_err().to_string().contains("VINCS_CACHE"));
    }

    #[test]
    fn releases_are_newest_first_and_without_unfinished_ones() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        assert_eq!(cache.releases(), [""; 0]);
        for release in ["6.1.0-9-amd64", "6.1.0-56-amd64", "6.12.1", ".partial-6.13.0"] {
            std::fs::create_dir_all(cache.kernels().join(release)).unwrap();
        }
        assert_eq!(cache.releases(), ["6.12.1", "6.1.0-56-amd64", "6.1.0-9-amd64"]);
    }
}
