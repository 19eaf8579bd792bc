//! Every input that `vincs` refuses without starting a guest: one line on stderr that names it, status 2, nothing on stdout.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

/// A user without rights, for what root may always do.
const NOBODY: u32 = 65_534;

/// A directory of its own for each test: vincs's current directory, with an empty cache of kernels.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir.path()).env("VINCS_CACHE", self.path("cache")).env_remove("VINCS_LOG");
        command
    }

    fn vincs(&self, args: &[&str]) -> Output {
        self.command(Path::new(env!("CARGO_BIN_EXE_vincs")), args).output().unwrap()
    }

    /// Runs vincs as a user to whom file modes apply.
    fn vincs_as_nobody(&self, args: &[&str]) -> Output {
        let program = self.path("vincs");
        fs::copy(env!("CARGO_BIN_EXE_vincs"), &program).unwrap();
        fs::set_permissions(self.dir.path(), Permissions::from_mode(0o755)).unwrap();
        let mut command = self.command(&program, args);
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        // Another test's child may hold the copy open for writing between its fork and its exec.
        loop {
            match command.output() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => sleep(Duration::from_millis(10)),
                output => return output.unwrap(),
            }
        }
    }

    fn refuses(&self, args: &[&str], named: &[&str]) {
        check(&self.vincs(args), args, named);
    }
}

fn check(output: &Output, args: &[&str], named: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert!(stderr.starts_with("vincs: ") && stderr.ends_with('\n'), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?}");
    for name in named {
        assert!(stderr.contains(name), "{args:?}: {name} is not in: {stderr}");
    }
}

/// Offsets of the boot protocol's header (Linux Documentation/arch/x86/boot.rst).
const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
const INITRD_ADDR_MAX: usize = 0x22c;
/// `loadflags`, with the bit that says that the kernel is loaded at 1 MiB.
const LOADFLAGS: usize = 0x211;
const LOADED_HIGH: u8 = 1;
const XLOADFLAGS: usize = 0x236;

/// The header of a 64-bit bzImage of release 1.2.3, and as much after it as it says.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[SETUP_SECTS] = 1;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[LOADFLAGS] = LOADED_HIGH;
    let system = u32::try_from((image.len() - 2 * 512) / 16).unwrap();
    image[SYSSIZE..SYSSIZE + 4].copy_from_slice(&system.to_le_bytes());
    image[HEADER..HEADER + 4].copy_from_slice(b"HdrS");
    image[VERSION..VERSION + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[KERNEL_VERSION..KERNEL_VERSION + 2].copy_from_slice(&0x180_u16.to_le_bytes());
    image[0x380..0x386].copy_from_slice(b"1.2.3\0");
    image[INITRD_ADDR_MAX..INITRD_ADDR_MAX + 4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    image[XLOADFLAGS..XLOADFLAGS + 2].copy_from_slice(&1_u16.to_le_bytes());
    image
}

#[test]
fn nothing_to_run() {
    Place::new().refuses(&[], &["-- CMD", "--initrd", "--disk", "--help"]);
}

#[test]
fn options_that_mean_nothing_without_a_command() {
    let place = Place::new();
    place.file("kernel", &bzimage());
    place.file("initrd", b"");
    File::create(place.path("disk.img")).unwrap().set_len(1 << 20).unwrap();
    let boot = ["--mem", "128M", "--kernel", "kernel"];
    let share = ["--share", "/usr:ro"];
    place.refuses(&[&boot[..], &share, &["--initrd", "initrd"]].concat(), &["--share /usr:", "-- CMD"]);
    place.refuses(&[&boot[..], &share, &["--disk", "disk.img"]].concat(), &["--share /usr:", "-- CMD"]);
    let modules = ["--modules", "mods", "--initrd", "initrd"];
    place.refuses(&[&boot[..], &modules].concat(), &["--modules mods:", "--initrd"]);
    // They are used where the disk's own system is booted by vincs's initrd.
    let used = place.vincs(&[&boot[..], &["--modules", "mods", "--disk", "disk.img"]].concat());
    assert!(!String::from_utf8_lossy(&used.stderr).contains("without a command"), "{used:?}");
}

#[test]
fn a_bad_command_line() {
    let place = Place::new();
    place.refuses(&["ls"], &["ls", "`--`", "--help"]);
    place.refuses(&["--bogus", "--", "true"], &["--bogus", "--help"]);
    place.refuses(&["--vcpus", "many", "--", "true"], &["many", "--vcpus"]);
    place.refuses(&["--vcpus", "-1", "--", "true"], &["-1", "--vcpus"]);
    place.refuses(&["--boot-timeout", "0", "--", "true"], &["--boot-timeout"]);
    place.refuses(&["--hold-time", "0", "--", "true"], &["--hold-time", "'0'", "1.."]);
    for seconds in ["0", "86401", "18446744073709551615"] {
        place.refuses(&["--wireup-timeout", seconds, "--", "true"], &["--wireup-timeout", seconds, "1..=86400"]);
    }
    place.refuses(&["doctor", "--check", "luck"], &["luck", "kvm-native"]);
}

#[test]
fn sizes_out_of_range() {
    let place = Place::new();
    place.refuses(&["--mem", "1", "--", "true"], &["--mem 1 ", "64M"]);
    place.refuses(&["--mem", "100T", "--", "true"], &["--mem 100T", "host's memory of"]);
    place.refuses(&["--mem", "5Q", "--", "true"], &["--mem", "`Q`", "K, M, G or T"]);
    place.refuses(&["--mem", "-5", "--", "true"], &["--mem", "-5"]);
    place.refuses(&["--mem", "99999999999999999999", "--", "true"], &["--mem", "64 bits"]);
    place.refuses(&["--vcpus", "0", "--", "true"], &["--vcpus 0", "at most 255"]);
    place.refuses(&["--vcpus", "5000", "--", "true"], &["--vcpus 5000", "at most 255"]);
    place.refuses(&["--vcpus", "2", "--numa", "3", "--", "true"], &["--numa 3", "2"]);
    place.refuses(&["--numa", "0", "--", "true"], &["--numa 0"]);
    place.refuses(&["--relaxed", "0", "--", "true"], &["--relaxed 0:", "multiples of 2M"]);
    place.refuses(&["--relaxed", "3M", "--", "true"], &["--relaxed 3M:", "multiples of 2M"]);
    place.refuses(&["--relaxed", "8T", "--", "true"], &["--relaxed 8T:", "up to 8191G"]);
    place.refuses(&["--relaxed", "8191G", "--", "true"], &["--relaxed 8191G", "host's memory of", "--mem"]);
    place.refuses(&["--relaxed", "x", "--", "true"], &["--relaxed", "'x'"]);
    let of_two = ["--rank", "0", "--ranks", "2", "--address-file", "a", "--wireup-timeout", "1"];
    place.refuses(&[&of_two[..], &["--relaxed", "2M", "--", "true"]].concat(), &["--relaxed 2M", "2 ranks"]);
    place.refuses(&[&of_two[..], &["--mem", "9T", "--", "true"]].concat(), &["--mem 9T", "8T"]);
}

#[test]
fn a_kernel_that_is_none() {
    let place = Place::new();
    place.refuses(&["--kernel", "absent", "--", "true"], &["absent", "--kernel"]);
    let text = place.file("text", b"#!/bin/sh\necho not a kernel\n");
    place.refuses(&["--kernel", text.to_str().unwrap(), "--", "true"], &["text", "not a", "bzImage"]);
    place.file("empty", b"");
    place.refuses(&["--kernel", "empty", "--", "true"], &["empty", "not a"]);
    place.refuses(&["--kernel", "/", "--", "true"], &["/", "--kernel"]);
}

#[test]
fn a_truncated_kernel() {
    let place = Place::new();
    let image = bzimage();
    place.file("short", &image[..image.len() - 512]);
    place.refuses(&["--kernel", "short", "--", "true"], &["short", "truncated"]);
    place.file("header", &image[..0x220]);
    place.refuses(&["--kernel", "header", "--", "true"], &["header"]);
}

#[test]
fn an_unreadable_kernel() {
    let place = Place::new();
    let kernel = place.file("secret", &bzimage());
    fs::set_permissions(&kernel, Permissions::from_mode(0o000)).unwrap();
    let args = ["--kernel", "secret", "--", "true"];
    check(&place.vincs_as_nobody(&args), &args, &["secret", "ermission", "--kernel"]);
}

#[test]
fn an_initrd_that_does_not_fit() {
    let place = Place::new();
    let initrd = File::create(place.path("big")).unwrap();
    initrd.set_len((64 << 20) + 1).unwrap();
    place.refuses(&["--mem", "64M", "--initrd", "big", "--", "true"], &["big", "67108865", "64M", "--mem"]);
    place.refuses(&["--initrd", "absent", "--", "true"], &["absent", "--initrd"]);
    // As large as the memory, so that there is no room for the kernel.
    initrd.set_len(64 << 20).unwrap();
    place.file("kernel", &bzimage());
    place.refuses(&["--mem", "64M", "--initrd", "big", "--kernel", "kernel"], &["--mem"]);
}

#[test]
fn a_disk_that_is_none() {
    let place = Place::new();
    place.refuses(&["--disk", "absent.img", "--", "true"], &["absent.img", "--disk"]);
    place.refuses(&["--disk", "/etc", "--", "true"], &["/etc", "neither"]);
    place.refuses(&["--disk", ",ro", "--", "true"], &["--disk"]);
    place.file("odd.img", &[0; 700]);
    place.refuses(&["--disk", "odd.img,ro", "--", "true"], &["odd.img", "700"]);
}

#[test]
fn a_disk_in_use() {
    let place = Place::new();
    let disk = File::create(place.path("disk.img")).unwrap();
    disk.set_len(1 << 20).unwrap();
    disk.lock().unwrap();
    place.refuses(&["--disk", "disk.img", "--", "true"], &["disk.img", "locked"]);
    place.refuses(&["--disk", "disk.img,ro", "--", "true"], &["disk.img", "locked"]);
}

#[test]
fn the_same_disk_twice() {
    let place = Place::new();
    File::create(place.path("disk.img")).unwrap().set_len(1 << 20).unwrap();
    place.refuses(&["--disk", "disk.img", "--disk", "disk.img", "--", "true"], &["disk.img", "locked"]);
}

#[test]
fn a_share_that_is_none() {
    let place = Place::new();
    place.file("file", b"");
    place.refuses(&["--share", "absent", "--", "true"], &["absent", "--share"]);
    place.refuses(&["--share", "file:ro", "--", "true"], &["file", "not a directory"]);
    place.refuses(&["--share", "/", "--", "true"], &["share /"]);
    place.refuses(&["--share", "/proc/self", "--", "true"], &["/proc"]);
}

#[test]
fn too_many_shares() {
    let place = Place::new();
    let mut args = Vec::new();
    for n in 0..40 {
        fs::create_dir(place.path(&n.to_string())).unwrap();
        args.extend(["--share".to_owned(), n.to_string()]);
    }
    args.extend(["--".to_owned(), "true".to_owned()]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    place.refuses(&args, &["room for", "--share"]);
}

#[test]
fn missing_modules() {
    let place = Place::new();
    place.file("kernel", &bzimage());
    place.refuses(&["--kernel", "kernel", "--", "true"], &["modules", "1.2.3", "--modules"]);
    place.refuses(&["--kernel", "kernel", "--modules", "absent", "--", "true"], &["absent", "--modules"]);
    fs::create_dir(place.path("empty")).unwrap();
    place.refuses(&["--kernel", "kernel", "--modules", "empty", "--", "true"], &["empty", "virtio", "--modules"]);
}

#[test]
fn no_kvm() {
    let place = Place::new();
    place.file("kernel", &bzimage());
    place.file("initrd", b"");
    let args = |kvm| ["--kvm", kvm, "--mem", "128M", "--vcpus", "1", "--kernel", "kernel", "--initrd", "initrd"];
    place.refuses(&args("absent"), &["absent", "kvm"]);
    place.refuses(&args("/dev/null"), &["KVM"]);
    let kvm = place.file("forbidden", b"");
    fs::set_permissions(&kvm, Permissions::from_mode(0o000)).unwrap();
    let output = place.vincs_as_nobody(&args("forbidden"));
    check(&output, &args("forbidden"), &["forbidden", "group"]);
}

#[test]
fn files_that_cannot_be_written() {
    let place = Place::new();
    place.file("kernel", &bzimage());
    place.file("initrd", b"");
    let common = ["--mem", "128M", "--kernel", "kernel", "--initrd", "initrd"];
    if !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: KVM is looked for before these files are");
        return;
    }
    place.refuses(&[&common[..], &["--stats", "/no/such/dir/s.json"]].concat(), &["--stats", "/no/such/dir/s.json"]);
    place.refuses(&[&common[..], &["--stats", "/dev/null"]].concat(), &["--stats", "/dev/null"]);
    place.refuses(&[&common[..], &["--console", "/no/such/dir/c"]].concat(), &["--console", "/no/such/dir/c"]);
    place.refuses(
        &[&common[..], &["--keep-initramfs", "/no/such/dir/i"]].concat(),
        &["--keep-initramfs", "/no/such/dir/i"],
    );
    place.refuses(&[&common[..], &["--append", &"x".repeat(5000)]].concat(), &["--append"]);
}

#[test]
fn nothing_is_left_behind_by_a_refusal() {
    let place = Place::new();
    place.refuses(&["--console", "c.log", "--stats", "s.json", "--kernel", "absent", "--", "true"], &["absent"]);
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), 0);
}

#[test]
fn the_doctor_answers_in_one_line() {
    let place = Place::new();
    let output = place.vincs(&["doctor", "--check", "kvm", "--kvm", "absent"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), stdout.lines().count()), (Some(1), 1), "{stdout}");
    assert!(stdout.starts_with("fail  kvm: ") && stdout.contains("absent"), "{stdout}");
}
