//! Fetching the distribution's stock kernel: downloaded with apt, unpacked into the cache, never installed.

use crate::cache::Cache;
use crate::file::{self, FileError};
use crate::kernel::{self, Kernel};
use crate::vmlinux::{self, VmlinuxError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod siw;

pub use siw::fetch_soft_iwarp;

/// Why the kernel could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It is not known which package holds this distribution's kernel.
    #[error("no stock kernel package is known for this distribution ({0}); give a kernel with --kernel FILE")]
    Distribution(String),
    /// A program could not be started.
    #[error(
        "cannot run {program}: {source}; `make setup` installs what is missing, or give a kernel with --kernel FILE"
    )]
    Program {
        /// The program.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A program failed.
    #[error("{command} failed: {message}; `apt-get update` may be needed, and the network")]
    Failed {
        /// The program with its arguments.
        command: String,
        /// The last line it wrote to its standard error.
        message: String,
    },
    /// The meta package depends on no kernel.
    #[error("package {0} depends on no kernel image; run `apt-get update`, or give a kernel with --kernel FILE")]
    NoImage(&'static str),
    /// The packages hold no kernel with modules.
    #[error("packages {0} hold no kernel with its modules; give a kernel with --kernel FILE")]
    Incomplete(String),
    /// The module that is missing cannot be built.
    #[error("the soft-iWARP module of kernel {release} cannot be built: {why}")]
    Module {
        /// The kernel's release.
        release: String,
        /// Why not.
        why: String,
    },
    /// A file of the cache cannot be used.
    #[error("{0}; make room or set VINCS_CACHE to a folder that can be written")]
    File(#[from] FileError),
    /// The kernel's ELF cannot be taken out of it.
    #[error(transparent)]
    Vmlinux(#[from] VmlinuxError),
}

/// How a distribution packages its stock kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Distribution {
    Debian,
    Ubuntu,
}

impl Distribution {
    /// From `/etc/os-release` (os-release(5)).
    fn of(os_release: &str) -> Result<Self, FetchError> {
        let value = |name: &str| {
            let line = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"')
        };
        // A derivative names what it is like, nearest first.
        let mut known = value("ID").split(' ').chain(value("ID_LIKE").split(' ')).filter_map(|id| match id {
            "debian" => Some(Self::Debian),
            "ubuntu" => Some(Self::Ubuntu),
            _ => None,
        });
        known.next().ok_or_else(|| FetchError::Distribution(value("ID").to_owned()))
    }

    /// The package that depends on the newest kernel.
    fn meta_package(self) -> &'static str {
        match self {
            Self::Debian => "linux-image-amd64",
            Self::Ubuntu => "linux-image-generic",
        }
    }

    /// The packages of the kernel with this release.
    fn packages(self, release: &str) -> Vec<String> {
        let kinds: &[&str] = match self {
            Self::Debian => &["image"],
            Self::Ubuntu => &["image", "modules", "modules-extra"],
        };
        kinds.iter().map(|kind| format!("linux-{kind}-{release}")).collect()
    }
}

/// Puts the distribution's stock kernel into the cache, with its `vmlinux` extracted. Does nothing when the cache has a
/// kernel. `progress` is told, one line each, what is being done.
///
/// # Errors
/// [`FetchError`]; the cache is as before then.
pub fn fetch_kernel(cache: &Cache, progress: &mut dyn FnMut(&str)) -> Result<Kernel, FetchError> {
    let kernel = match kernel::cached(cache) {
        Some(kernel) => kernel,
        None => fetch(cache, progress)?,
    };
    vmlinux::prepare(&kernel, cache)?;
    Ok(kernel)
}

fn fetch(cache: &Cache, progress: &mut dyn FnMut(&str)) -> Result<Kernel, FetchError> {
    let os_release = file::read(Path::new("/etc/os-release"))?;
    let distribution = Distribution::of(&String::from_utf8_lossy(&os_release))?;
    let meta = distribution.meta_package();
    let depends = run(Command::new("apt-cache").args(["depends", "--important", meta]), "apt-cache")?;
    let release = image_release(&depends).ok_or(FetchError::NoImage(meta))?;
    let packages = distribution.packages(&release);

    let kernels = cache.kernels();
    let (_unfinished, tree) = unpack(&packages, &kernels, progress)?;
    let incomplete = || FetchError::Incomplete(packages.join(", "));
    kernel::in_tree(&tree, &release).ok_or_else(incomplete)?;
    let place = kernels.join(&release);
    match std::fs::rename(&tree, &place) {
        // Another process was quicker: its tree is as good.
        Err(_) if kernel::in_tree(&place, &release).is_some() => {}
        renamed => renamed.map_err(FileError::from("create", &place))?,
    }
    kernel::in_tree(&place, &release).ok_or_else(incomplete)
}

/// Puts a busybox that needs no libraries into the cache, unless one is there, and returns its path. It is not installed:
/// the package would replace the system's own busybox and have its boot files made anew.
///
/// # Errors
/// [`FetchError`]; the cache is as before then.
pub fn fetch_busybox(cache: &Cache, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, FetchError> {
    let tools = cache.tools();
    let place = tools.join("busybox");
    if place.is_file() {
        return Ok(place);
    }
    let packages = ["busybox-static".to_owned()];
    let (_unfinished, tree) = unpack(&packages, &tools, progress)?;
    let found = ["bin/busybox", "usr/bin/busybox"].map(|path| tree.join(path)).into_iter().find(|path| path.is_file());
    let found = found.ok_or_else(|| FetchError::Incomplete(packages.join(", ")))?;
    std::fs::rename(&found, &place).map_err(FileError::from("create", &place))?;
    Ok(place)
}

/// Downloads packages and unpacks them into a tree beside their final places in `folder`, so that what is in it can be
/// renamed. The tree goes with the temporary folder that is returned before it.
fn unpack(
    packages: &[String],
    folder: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(tempfile::TempDir, PathBuf), FetchError> {
    std::fs::create_dir_all(folder).map_err(FileError::from("create", folder))?;
    // The dot keeps it from being taken for a kernel.
    let unfinished = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(folder);
    let unfinished = unfinished.map_err(FileError::from("create a folder in", folder))?;
    let (downloads, tree) = (unfinished.path().join("downloads"), unfinished.path().join("tree"));
    for folder in [&downloads, &tree] {
        std::fs::create_dir(folder).map_err(FileError::from("create", folder))?;
    }
    progress(&format!("downloading {} (not installed, only unpacked)", packages.join(", ")));
    // As root, apt downloads as a user who cannot write here, and warns about that.
    let download = ["-q", "-o", "APT::Sandbox::User=root", "download"];
    run(Command::new("apt-get").args(download).args(packages).current_dir(&downloads), "apt-get")?;
    for package in file::entries(&downloads)? {
        progress(&format!("unpacking {}", package.file_name().to_string_lossy()));
        run(Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(&tree), "dpkg-deb")?;
    }
    Ok((unfinished, tree))
}

/// The release of the kernel image among dependencies as `apt-cache depends` lists them.
fn image_release(depends: &str) -> Option<String> {
    let packages = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let mut releases = packages.filter_map(|package| package.strip_prefix("linux-image-"));
    releases.find(|release| release.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned)
}

/// Runs a program quietly; its standard output.
fn run(command: &mut Command, program: &'static str) -> Result<String, FetchError> {
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.map_err(|source| FetchError::Program { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    let command = [program.to_owned()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ");
    let errors = String::from_utf8_lossy(&output.stderr);
    let message = errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing").to_owned();
    Err(FetchError::Failed { command, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_told_apart() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n";
        assert_eq!(Distribution::of(debian).unwrap(), Distribution::Debian);
        assert_eq!(Distribution::of("ID=ubuntu\nID_LIKE=debian\n").unwrap(), Distribution::Ubuntu);
        assert_eq!(Distribution::of("ID=linuxmint\nID_LIKE=\"ubuntu debian\"").unwrap(), Distribution::Ubuntu);
        let message = Distribution::of("ID=fedora\nVERSION_ID=41").unwrap_err().to_string();
        assert!(message.contains("fedora") && message.contains("--kernel"), "{message}");
    }

    #[test]
    fn the_kernel_is_found_among_the_dependencies() {
        let debian = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(image_release(debian).unwrap(), "6.1.0-56-amd64");
        let ubuntu = "linux-image-generic\n  Depends: linux-image-6.8.0-45-generic\n  Depends: linux-firmware\n";
        assert_eq!(image_release(ubuntu).unwrap(), "6.8.0-45-generic");
        assert_eq!(image_release("linux-image-amd64\n  Depends: linux-image-extra\n"), None);
        let expected =
            ["linux-image-6.8.0-45-generic", "linux-modules-6.8.0-45-generic", "linux-modules-extra-6.8.0-45-generic"];
        assert_eq!(Distribution::Ubuntu.packages("6.8.0-45-generic"), expected);
    }

    #[test]
    fn a_kernel_in_the_cache_is_not_fetched_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let tree = cache.kernels().join("6.1.0");
        std::fs::create_dir_all(tree.join("boot")).unwrap();
        std::fs::create_dir_all(tree.join("lib/modules/6.1.0")).unwrap();
        std::fs::write(tree.join("boot/vmlinuz-6.1.0"), vmlinux::testing::kernel("6.1.0")).unwrap();
        let mut said = Vec::new();
        let kernel = fetch_kernel(&cache, &mut |line| said.push(line.to_owned())).unwrap();
        assert_eq!(kernel.release, "6.1.0");
        assert_eq!(said, [""; 0]);
        assert!(tree.join("vmlinux").is_file());
    }

    #[test]
    fn a_program_that_fails_is_named_with_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo one >&2; echo two >&2; exit 3"]), "sh").unwrap_err();
        assert!(error.to_string().contains("two"), "{error}");
        let error = run(&mut Command::new("/nowhere/program"), "/nowhere/program").unwrap_err();
        assert!(error.to_string().contains("/nowhere/program"), "{error}");
    }
}
