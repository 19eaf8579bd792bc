//! What is booted: the files and the size that both sides are given.

use std::fmt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use vincs_guest_image::cache::Cache;
use vincs_guest_image::kernel::{self, Kernel};
use vincs_guest_image::vmlinux;

use super::{BootError, file_error};

/// The command that runs in the guest: a program of the host's root, which has to come through 9p with its libraries.
pub const COMMAND: [&str; 2] = ["echo", "up"];
/// What the command prints.
pub const OUTPUT: &[u8] = b"up\n";
/// Bytes of guest memory: vincs's own default.
pub const MEMORY: u64 = 1 << 30;

/// In which form the kernel is booted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// The ELF file inside the bzImage, which is what vincs boots by default.
    Elf,
    /// The bzImage as the distribution ships it; the guest unpacks it first.
    BzImage,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elf => "vmlinux",
            Self::BzImage => "bzImage",
        })
    }
}

/// The stock kernel in both forms, and its modules.
#[derive(Clone, Debug)]
pub struct KernelFiles {
    elf: PathBuf,
    bzimage: PathBuf,
    /// The folder of its modules.
    pub modules: PathBuf,
}

impl KernelFiles {
    /// The newest kernel of the cache. `work` gets a link to its bzImage.
    ///
    /// # Errors
    /// [`BootError`] when there is none or its ELF cannot be had.
    pub fn find(work: &Path) -> Result<Self, BootError> {
        let cache = Cache::from_env()?;
        let found: Kernel = kernel::find(None, None, &cache)?;
        let elf = vmlinux::prepare(&found, &cache)?.ok_or_else(|| BootError::Failed {
            program: "the kernel",
            what: "is not one of the cache, so that vincs boots its bzImage alone; fetch one with `make kernel`",
            detail: found.image.display().to_string(),
        })?;
        // Under its own name, vincs would know that it has the same kernel's ELF and boot that.
        let bzimage = work.join("vmlinuz");
        symlink(&found.image, &bzimage).map_err(file_error("cannot make a link to the kernel"))?;
        Ok(Self { elf, bzimage, modules: found.modules })
    }

    /// Its file in this form.
    #[must_use]
    pub fn file(&self, form: Form) -> &Path {
        match form {
            Form::Elf => &self.elf,
            Form::BzImage => &self.bzimage,
        }
    }
}

/// What vincs booted, for QEMU to boot the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The initramfs's file.
    pub initramfs: PathBuf,
    /// The kernel's command line.
    pub cmdline: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// Directories served over 9p, in order: the n-th has the tag `vincsN`.
    pub shares: Vec<String>,
}
