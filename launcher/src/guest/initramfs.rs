//! The guest's initial RAM disk: its first program, that program's orders, and the kernel modules it needs.

use vincs_guest_image::cpio::{Archive, CpioError};
use vincs_guest_image::modules::{DISK_MODULES, MACHINE_MODULES, ModuleTree, ModulesError, RELAXED_MODULES};
use vincs_guest_protocol::{CONFIG_PATH, FrameError, GuestConfig, MODULES_DIR};

/// The kernel looks for an archive after another one at multiples of this (driver-api/early-userspace/buffer-format).
const ALIGNMENT: usize = 4;

/// Path of the first program, where the kernel looks for it.
const INIT_PATH: &str = "/init";

/// Why there is no initial RAM disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitramfsError {
    #[error(transparent)]
    Modules(#[from] ModulesError),
    #[error(transparent)]
    Archive(#[from] CpioError),
    #[error("the guest's orders cannot be encoded: {0}")]
    Config(#[from] FrameError),
}

/// A file of the kernel's modules, decompressed, with the name under which it is loaded in its turn.
#[derive(Debug)]
pub(crate) struct ModuleFile {
    pub(crate) path: String,
    pub(crate) content: Vec<u8>,
}

/// The modules that a guest needs, in load order: those of disks and of relaxed memory only where there is one, because
/// those of disks take as long to load as all others together.
///
/// # Errors
/// [`ModulesError`] when one is missing or damaged.
pub(crate) fn modules(tree: &ModuleTree, with_disk: bool, with_relaxed: bool) -> Result<Vec<ModuleFile>, ModulesError> {
    let disk = if with_disk { DISK_MODULES } else { &[] };
    let relaxed = if with_relaxed { RELAXED_MODULES } else { &[] };
    let needed = tree.resolve(&[MACHINE_MODULES, disk, relaxed].concat())?;
    let file = |(n, module): (usize, &vincs_guest_image::modules::Module)| {
        Ok(ModuleFile { path: format!("{MODULES_DIR}/{n:03}-{}.ko", module.name), content: module.load()? })
    };
    needed.iter().enumerate().map(file).collect()
}

/// The archive, after the user's own one if there is one: where both have a file, the later counts.
///
/// # Errors
/// [`InitramfsError`] when something cannot be put into it.
pub(crate) fn build(
    users: Option<Vec<u8>>,
    init: &[u8],
    config: &GuestConfig,
    modules: &[ModuleFile],
) -> Result<Vec<u8>, InitramfsError> {
    let mut archive = Archive::new();
    archive.directory("/dev", 0o755)?;
    archive.device("/dev/console", 0o600, 5, 1)?;
    archive.file(INIT_PATH, 0o755, init)?;
    archive.file(CONFIG_PATH, 0o600, &config.to_bytes()?)?;
    for module in modules {
        archive.file(&module.path, 0o600, &module.content)?;
    }
    let own = archive.finish();
    let Some(mut bytes) = users else { return Ok(own) };
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes.extend(own);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GuestConfig {
        GuestConfig { hostname: "box".into(), ..Default::default() }
    }

    #[test]
    fn the_archive_holds_all_that_the_first_program_needs() {
        let modules = [ModuleFile { path: format!("{MODULES_DIR}/000-virtio.ko"), content: b"MODULE".to_vec() }];
        let bytes = build(None, b"INIT", &config(), &modules).unwrap();
        let encoded = config().to_bytes().unwrap();
        for part in [
            &b"init\0"[..],
            b"INIT",
            b"vincs/config\0",
            &encoded,
            b"vincs/modules/000-virtio.ko\0",
            b"MODULE",
            b"dev/console\0",
        ] {
            assert!(bytes.windows(part.len()).any(|window| window == part), "{}", String::from_utf8_lossy(part));
        }
        assert!(bytes.starts_with(b"070701"));
    }

    #[test]
    fn the_users_archive_comes_first_and_ours_is_aligned() {
        for length in 5..9 {
            let bytes = build(Some(vec![b'u'; length]), b"INIT", &config(), &[]).unwrap();
            let ours = bytes.windows(6).position(|window| window == b"070701").unwrap();
            assert_eq!(
                (ours, bytes.iter().filter(|byte| **byte == b'u').count() >= length),
                (length.next_multiple_of(4), true)
            );
        }
    }
}
