//! Soft-iWARP (`siw`), which Debian builds into none of its kernel packages: built as a module of the kernel in the cache, from the very source that
//! this is made of, and put beside the modules of its package.

use super::{FetchError, run, unpack};
use crate::cache::Cache;
use crate::file::{self, FileError};
use crate::kernel::{Kernel, debian_version_of};
use crate::modules::ModuleTree;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The module's name.
const MODULE: &str = "siw";

/// The driver in a kernel's source.
const DRIVER: &str = "drivers/infiniband/sw/siw";

/// Folder of a kernel's modules for those that are not of its package, as the kernel's own build installs them.
const UPDATES: &str = "updates";

/// Puts the soft-iWARP module of a kernel in the cache beside its other modules, unless it is there; `progress` is told, one line each, what is
/// being done.
///
/// # Errors
/// [`FetchError`]; the cache is as before then.
pub fn fetch_soft_iwarp(cache: &Cache, kernel: &Kernel, progress: &mut dyn FnMut(&str)) -> Result<(), FetchError> {
    if ModuleTree::open(&kernel.modules).is_ok_and(|tree| tree.resolve(&[MODULE]).is_ok()) {
        return Ok(());
    }
    let failed = |why: String| FetchError::Module { release: kernel.release.clone(), why };
    let version = debian_version_of(&file::read(&kernel.image)?).ok_or_else(|| {
        failed("it is no kernel of Debian's; only those are known to have its source as a package".to_owned())
    })?;
    let headers = format!("linux-headers-{}", kernel.release);
    let depends = run(Command::new("apt-cache").args(["depends", "--important", &headers]), "apt-cache")?;
    let packages =
        packages(&headers, &depends, &version).ok_or_else(|| failed(format!("{version} is no version of a kernel")))?;
    let (_unfinished, tree) = unpack(&packages, &cache.kernels(), progress)?;
    progress(&format!("building the module {MODULE} of kernel {}", kernel.release));
    let built = build(kernel, &tree)?;
    let updates = kernel.modules.join(UPDATES);
    std::fs::create_dir_all(&updates).map_err(FileError::from("create", &updates))?;
    let place = updates.join(MODULE).with_extension("ko");
    std::fs::rename(&built, &place).map_err(FileError::from("create", &place))?;
    Ok(())
}

/// The packages in which its headers, what builds with them, and its source are. `depends` is what the package of its headers depends on, as
/// `apt-cache depends` lists it.
fn packages(headers: &str, depends: &str, version: &str) -> Option<Vec<String>> {
    let series = version.match_indices('.').nth(1).and_then(|(end, _)| version.get(..end))?;
    let needed = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let needed = needed.filter(|package| package.starts_with("linux-headers-") || package.starts_with("linux-kbuild-"));
    let source = format!("linux-source-{series}");
    let names = [headers].into_iter().chain(needed).map(str::to_owned).chain([source]);
    Some(names.map(|name| format!("{name}={version}")).collect())
}

/// Builds the module in the tree of the unpacked packages.
fn build(kernel: &Kernel, tree: &Path) -> Result<PathBuf, FetchError> {
    let sources = tree.join("usr/src");
    let headers = sources.join(format!("linux-headers-{}", kernel.release));
    let makefile = headers.join("Makefile");
    // It names the headers that all flavours share where they would be installed.
    let text =
        String::from_utf8_lossy(&file::read(&makefile)?).replace("/usr/src/", &format!("{}/", sources.display()));
    std::fs::write(&makefile, text).map_err(FileError::from("write", &makefile))?;
    let incomplete = || FetchError::Incomplete(format!("of the source of {}", kernel.release));
    // All of the source is in one archive, below a folder of its name.
    let source = file::entries(&sources)?
        .into_iter()
        .find_map(|entry| Some((entry.path(), PathBuf::from(entry.file_name().to_str()?.strip_suffix(".tar.xz")?))));
    let (archive, top) = source.ok_or_else(incomplete)?;
    let driver = top.join(DRIVER);
    run(
        Command::new("tar").arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(tree).arg(&driver),
        "tar",
    )?;
    let driver = tree.join(driver);
    let jobs = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut make = Command::new("make");
    make.arg(format!("--jobs={jobs}")).arg("--directory").arg(&headers);
    make.arg(format!("M={}", driver.display())).args(["CONFIG_RDMA_SIW=m", "modules"]);
    run(&mut make, "make")?;
    let built = driver.join(MODULE).with_extension("ko");
    run(Command::new("strip").arg("--strip-debug").arg(&built), "strip")?;
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_what_builds_with_them_and_source_are_of_the_kernels_version() {
        let depends = "linux-headers-6.1.0-57-amd64\n  Depends: linux-headers-6.1.0-57-common\n  Depends: linux-kbuild-6.1\n  \
                       Depends: linux-compiler-gcc-12-x86\n";
        let named = packages("linux-headers-6.1.0-57-amd64", depends, "6.1.192-3").unwrap();
        let expected = [
            "linux-headers-6.1.0-57-amd64=6.1.192-3",
            "linux-headers-6.1.0-57-common=6.1.192-3",
            "linux-kbuild-6.1=6.1.192-3",
            "linux-source-6.1=6.1.192-3",
        ];
        assert_eq!(named, expected);
        assert_eq!(packages("linux-headers-x", depends, "6.1"), None);
    }

    #[test]
    fn a_module_in_the_cache_is_not_built_again_and_other_kernels_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let tree = cache.kernels().join("6.1.0");
        let modules = tree.join("lib/modules/6.1.0");
        std::fs::create_dir_all(tree.join("boot")).unwrap();
        std::fs::create_dir_all(&modules).unwrap();
        std::fs::write(tree.join("boot/vmlinuz-6.1.0"), crate::vmlinux::testing::kernel("6.1.0")).unwrap();
        let kernel = crate::kernel::cached(&cache).unwrap();
        let refused = fetch_soft_iwarp(&cache, &kernel, &mut |line| panic!("{line}")).unwrap_err().to_string();
        assert!(refused.starts_with("the soft-iWARP module of kernel 6.1.0 cannot be built: it is no"), "{refused}");
        std::fs::write(modules.join("modules.builtin"), "kernel/drivers/infiniband/sw/siw/siw.ko\n").unwrap();
        fetch_soft_iwarp(&cache, &kernel, &mut |line| panic!("{line}")).unwrap();
    }
}
