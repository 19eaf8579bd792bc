//! Kernel modules: which files a guest needs, in the order to load them.
//!
//! A kernel package that was unpacked but not installed has no `modules.dep` (depmod writes it at installation), so
//! dependencies are read from the modules themselves: the `depends=` and `softdep=` entries of their `.modinfo`.

use crate::compression::{Compression, DecompressError};
use crate::file::{self, FileError};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

mod info;

pub use info::ModuleInfoError;

/// Modules that every guest of vincs's own machine needs: its transport, console, random numbers, file systems.
pub const MACHINE_MODULES: &[&str] = &["virtio_mmio", "virtio_console", "virtio-rng", "9pnet_virtio", "9p", "overlay"];
/// Modules that a guest with a disk needs besides. Apart, because loading them takes a good part of a short boot.
pub const DISK_MODULES: &[&str] = &["virtio_blk", "ext4"];

/// Modules that a guest with relaxed memory needs besides, for its character device: what finds the memory, what reads what it is for, what
/// claims it, and the device itself.
pub const RELAXED_MODULES: &[&str] = &["nfit", "nd_pmem", "dax_pmem", "device_dax"];

/// Files that hold a module, by what follows the module's name. Compressed as Debian 13 (xz) and Ubuntu (zst) do.
const SUFFIXES: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// Most modules that one may need in a row; a longer row is a circle in a broken tree.
const DEPTH_MAX: usize = 64;

/// Why modules cannot be found or read.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// A file of the tree cannot be used.
    #[error("{0}; give the folder of the kernel's modules with --modules DIR")]
    File(#[from] FileError),
    /// No such module, neither as a file nor built in.
    #[error(
        "kernel module {name}{} is not in {}; give the folder of this kernel's modules with --modules DIR, \
         or fetch a complete kernel with `make kernel`",
        needed_by(.for_module.as_ref()), tree.display()
    )]
    Missing {
        /// The module's name.
        name: String,
        /// What needs it, when it was not asked for itself.
        for_module: Option<String>,
        /// The tree it was looked for in.
        tree: PathBuf,
    },
    /// A compressed module is damaged.
    #[error("{}: {source}; fetch the kernel again or give --modules DIR", path.display())]
    Damaged {
        /// The module's file.
        path: PathBuf,
        /// What is wrong with it.
        source: DecompressError,
    },
    /// A file is not a kernel module.
    #[error("{} is not a kernel module: {source}", path.display())]
    NotAModule {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ModuleInfoError,
    },
    /// Modules depend on each other in a circle.
    #[error("kernel module {name} in {} depends on itself; give another tree with --modules DIR", tree.display())]
    Circle {
        /// A module of the circle.
        name: String,
        /// The tree.
        tree: PathBuf,
    },
}

fn needed_by(module: Option<&String>) -> String {
    module.map(|module| format!(" (needed by {module})")).unwrap_or_default()
}

/// A kernel module's file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Module {
    /// Its name as the kernel shows it, with `_` and never `-`.
    pub name: String,
    /// Its file, possibly compressed.
    pub path: PathBuf,
}

impl Module {
    /// The module as the kernel loads it: its file, decompressed if need be.
    ///
    /// # Errors
    /// [`ModulesError::File`] and [`ModulesError::Damaged`].
    pub fn load(&self) -> Result<Vec<u8>, ModulesError> {
        let bytes = file::read(&self.path)?;
        match Compression::of(&bytes) {
            None => Ok(bytes),
            Some(format) => {
                format.decompress(&bytes).map_err(|source| ModulesError::Damaged { path: self.path.clone(), source })
            }
        }
    }
}

/// The modules of one kernel: a folder as `/lib/modules/RELEASE`.
#[derive(Debug)]
pub struct ModuleTree {
    dir: PathBuf,
    builtin: BTreeSet<String>,
    /// Paths below `dir` by module name, from `modules.order`. May lack modules, and files may be compressed.
    ordered: BTreeMap<String, String>,
    /// Files by module name, from walking the tree; only when `ordered` lacks one, because it has thousands of files.
    walked: OnceCell<BTreeMap<String, PathBuf>>,
}

impl ModuleTree {
    /// The tree in the folder `dir`.
    ///
    /// # Errors
    /// [`ModulesError::File`] when there is no such folder or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, ModulesError> {
        file::entries(dir)?;
        let lines = |name: &str| -> Result<Vec<String>, FileError> {
            let path = dir.join(name);
            if !path.exists() {
                return Ok(Vec::new());
            }
            Ok(String::from_utf8_lossy(&file::read(&path)?).lines().map(str::to_owned).collect())
        };
        let builtin = lines("modules.builtin")?.iter().filter_map(|path| name_of(path)).collect();
        let ordered = lines("modules.order")?.into_iter().filter_map(|path| Some((name_of(&path)?, path))).collect();
        Ok(Self { dir: dir.to_owned(), builtin, ordered, walked: OnceCell::new() })
    }

    /// The named modules and all they need, each once, in an order in which the kernel can load them. What is built
    /// into the kernel is left out.
    ///
    /// # Errors
    /// [`ModulesError`]; the first module that is missing or unusable.
    pub fn resolve(&self, names: &[&str]) -> Result<Vec<Module>, ModulesError> {
        let mut order = Order { tree: self, modules: Vec::new(), seen: BTreeSet::new() };
        for name in names {
            order.add(name, None, 0)?;
        }
        Ok(order.modules)
    }

    fn find(&self, name: &str) -> Result<Option<PathBuf>, ModulesError> {
        if let Some(path) = self.ordered.get(name) {
            let path = self.dir.join(path);
            let stem = path.with_extension("");
            let found = SUFFIXES.iter().map(|suffix| append(&stem, suffix)).find(|path| path.is_file());
            if found.is_some() {
                return Ok(found);
            }
        }
        if self.walked.get().is_none() {
            let mut files = BTreeMap::new();
            walk(&self.dir, &mut files)?;
            // Only this function sets it, so it is still empty.
            let _ = self.walked.set(files);
        }
        Ok(self.walked.get().and_then(|files| files.get(name)).cloned())
    }
}

struct Order<'a> {
    tree: &'a ModuleTree,
    modules: Vec<Module>,
    seen: BTreeSet<String>,
}

impl Order<'_> {
    fn add(&mut self, name: &str, for_module: Option<&str>, depth: usize) -> Result<(), ModulesError> {
        let name = normal(name);
        let tree = || self.tree.dir.clone();
        if depth > DEPTH_MAX {
            return Err(ModulesError::Circle { tree: tree(), name });
        }
        if self.seen.contains(&name) || self.tree.builtin.contains(&name) {
            return Ok(());
        }
        let Some(path) = self.tree.find(&name)? else {
            return Err(ModulesError::Missing { tree: tree(), name, for_module: for_module.map(str::to_owned) });
        };
        let module = Module { name: name.clone(), path };
        let image = module.load()?;
        let info = info::ModuleInfo::read(&image)
            .map_err(|source| ModulesError::NotAModule { path: module.path.clone(), source })?;
        for needed in &info.depends {
            self.add(needed, Some(&name), depth + 1)?;
        }
        for wanted in &info.soft_before {
            self.add_if_there(wanted, &name, depth + 1)?;
        }
        if self.seen.insert(name) {
            self.modules.push(module);
        }
        Ok(())
    }

    /// A soft dependency names a module or an alias. The aliases that matter are of the crypto layer: `crypto-X` or `X`,
    /// where the portable implementation of X is the module X or `X_generic`.
    fn add_if_there(&mut self, wanted: &str, for_module: &str, depth: usize) -> Result<(), ModulesError> {
        let algorithm = wanted.strip_prefix("crypto-").unwrap_or(wanted);
        for name in [normal(algorithm), normal(&format!("{algorithm}_generic"))] {
            if self.tree.builtin.contains(&name) || self.tree.find(&name)?.is_some() {
                return self.add(&name, Some(for_module), depth);
            }
        }
        Ok(())
    }
}

/// In module names, `-` and `_` are the same.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in a file of this path, if it is a module's.
fn name_of(path: &str) -> Option<String> {
    let file_name = path.rsplit('/').next()?;
    SUFFIXES.iter().find_map(|suffix| file_name.strip_suffix(suffix)).map(normal)
}

fn append(stem: &Path, suffix: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Does not follow links: the `build` link of an installed tree leads to thousands of other files.
fn walk(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), FileError> {
    for entry in file::entries(dir)? {
        let path = entry.path();
        let kind = entry.file_type().map_err(FileError::from("look at", &path))?;
        if kind.is_dir() {
            walk(&path, files)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(name_of) {
            files.entry(name).or_insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
