//! Finding a kernel and its modules.

use crate::cache::{Cache, CacheError};
use crate::file::{self, FileError};
use std::path::{Path, PathBuf};

mod header;

#[cfg(test)]
pub(crate) use header::testing;
pub use header::{HeaderError, release_of};
pub(crate) use header::{SetupHeader, debian_version_of, is_elf};

/// A kernel and its modules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kernel {
    /// The kernel: a bzImage or an ELF file.
    pub image: PathBuf,
    /// Folder of its modules.
    pub modules: PathBuf,
    /// Its release, as `uname -r` shows it.
    pub release: String,
}

/// Why there is no kernel to boot.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The kernel cannot be read.
    #[error("{0}; name a readable kernel with --kernel FILE, or fetch one with `make kernel`")]
    Unreadable(#[from] FileError),
    /// The file is not a kernel.
    #[error("{} is not a kernel that can boot: {source}; give a bzImage (vmlinuz) or vmlinux with --kernel FILE", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// No kernel was named, and none is where kernels are looked for.
    #[error("no guest kernel: neither in {} nor {}; fetch one with `make kernel`, or give --kernel FILE", cache.display(), installed.display())]
    NoKernel {
        /// The folder of fetched kernels.
        cache: PathBuf,
        /// Where the running system's kernel would be.
        installed: PathBuf,
    },
    /// The kernel's modules are nowhere.
    #[error("no modules for kernel {} ({release}): looked for {}; give their folder with --modules DIR", image.display(), list(looked_for))]
    NoModules {
        /// The kernel.
        image: PathBuf,
        /// Its release.
        release: String,
        /// Folders that were looked for.
        looked_for: Vec<PathBuf>,
    },
    /// The named folder of modules is not one.
    #[error("{} is not a folder; give the folder of the kernel's modules (…/lib/modules/RELEASE) with --modules DIR", .0.display())]
    ModulesNotAFolder(PathBuf),
    /// There is no cache folder to look in.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Finds the kernel to boot: the one named, else the newest in the cache, else the running system's.
///
/// Modules are `modules`, else those of the kernel's release in the package it was unpacked from, in the cache, or in
/// `/lib/modules`.
///
/// # Errors
/// [`FindError`]; its message says what was looked for where, and what to do.
pub fn find(kernel: Option<&Path>, modules: Option<&Path>, cache: &Cache) -> Result<Kernel, FindError> {
    let uname = rustix::system::uname();
    let running = uname.release().to_string_lossy().into_owned();
    Search { modules, cache, system: Path::new("/"), running: &running }.find(kernel)
}

/// Where to look; the running system can be another one in tests.
struct Search<'a> {
    modules: Option<&'a Path>,
    cache: &'a Cache,
    system: &'a Path,
    running: &'a str,
}

impl Search<'_> {
    fn find(&self, kernel: Option<&Path>) -> Result<Kernel, FindError> {
        if let Some(modules) = self.modules.filter(|modules| !modules.is_dir()) {
            return Err(FindError::ModulesNotAFolder(modules.to_owned()));
        }
        match kernel {
            Some(image) => self.with_modules(image),
            None => self.default_kernel(),
        }
    }

    fn default_kernel(&self) -> Result<Kernel, FindError> {
        if let Some(kernel) = cached(self.cache) {
            return Ok(Kernel { modules: self.modules.map_or(kernel.modules, Path::to_owned), ..kernel });
        }
        let installed = image_in(self.system, self.running);
        if installed.exists() {
            return self.with_modules(&installed);
        }
        Err(FindError::NoKernel { cache: self.cache.kernels(), installed })
    }

    fn with_modules(&self, image: &Path) -> Result<Kernel, FindError> {
        let bytes = file::read(image)?;
        let release = release_of(&bytes).map_err(|source| FindError::NotAKernel { path: image.to_owned(), source })?;
        let kernel =
            |modules: &Path| Kernel { image: image.to_owned(), modules: modules.to_owned(), release: release.clone() };
        if let Some(modules) = self.modules {
            return Ok(kernel(modules));
        }
        let package = image.parent().map(|boot| boot.join(".."));
        let trees = [package, Some(self.cache.kernels().join(&release)), Some(self.system.to_owned())];
        let looked_for: Vec<_> = trees.into_iter().flatten().flat_map(|tree| modules_in(&tree, &release)).collect();
        match looked_for.iter().find(|modules| modules.is_dir()) {
            Some(modules) => Ok(kernel(modules)),
            None => Err(FindError::NoModules { image: image.to_owned(), release, looked_for }),
        }
    }
}

/// The newest complete kernel in the cache.
#[must_use]
pub fn cached(cache: &Cache) -> Option<Kernel> {
    cache.releases().into_iter().find_map(|release| in_tree(&cache.kernels().join(&release), &release))
}

/// The kernel of this release in a file system tree or unpacked package.
pub(crate) fn in_tree(tree: &Path, release: &str) -> Option<Kernel> {
    let image = image_in(tree, release);
    let modules = modules_in(tree, release).into_iter().find(|modules| modules.is_dir())?;
    image.is_file().then(|| Kernel { image, modules, release: release.to_owned() })
}

fn image_in(tree: &Path, release: &str) -> PathBuf {
    tree.join("boot").join(format!("vmlinuz-{release}"))
}

/// Packages with a merged `/usr` have their modules there.
fn modules_in(tree: &Path, release: &str) -> [PathBuf; 2] {
    ["lib/modules", "usr/lib/modules"].map(|dir| tree.join(dir).join(release))
}

#[cfg(test)]
mod tests;
