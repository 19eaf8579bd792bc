//! A boot with vincs, timed by vincs itself (`--stats`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::guest::{COMMAND, Form, Guest, KernelFiles, MEMORY, OUTPUT};
use super::{Boot, BootError, file_error};

/// The vincs to measure.
#[derive(Clone, Debug)]
pub struct Vincs {
    program: PathBuf,
    work: PathBuf,
}

/// A boot, and what was booted.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its times.
    pub boot: Boot,
    /// What was booted.
    pub guest: Guest,
    /// Exits of all virtual processors by kind.
    pub exits: Vec<(String, u64)>,
}

impl Vincs {
    /// The program; its files go to the folder `work`.
    #[must_use]
    pub fn new(program: &Path, work: &Path) -> Self {
        Self { program: program.to_owned(), work: work.to_owned() }
    }

    /// Whether this host's KVM runs a kernel, and what vincs says about it.
    ///
    /// # Errors
    /// [`BootError::Start`] when vincs is not there.
    pub fn runs_here(&self) -> Result<(bool, String), BootError> {
        let output = Command::new(&self.program).args(["doctor", "--check", "kvm-native"]).output();
        let output = output.map_err(|source| BootError::Start { program: self.program.clone(), source })?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }

    /// Boots the kernel once.
    ///
    /// # Errors
    /// [`BootError`] when vincs fails or the command's output is not what it should be.
    pub fn boot(&self, kernel: &KernelFiles, form: Form, vcpus: u32) -> Result<Run, BootError> {
        let (stats, initramfs) = (self.work.join("stats.json"), self.work.join("initramfs"));
        let mut command = Command::new(&self.program);
        command.args(["--vcpus", &vcpus.to_string(), "--mem", &MEMORY.to_string()]);
        command.arg("--kernel").arg(kernel.file(form)).arg("--modules").arg(&kernel.modules);
        command.arg("--stats").arg(&stats).arg("--keep-initramfs").arg(&initramfs);
        // From the root, no directory is shared read-write: QEMU need not tell two kinds of shares apart.
        let output = command.arg("--").args(COMMAND).current_dir("/").stdin(Stdio::null()).output();
        let output = output.map_err(|source| BootError::Start { program: self.program.clone(), source })?;
        if !output.status.success() || output.stdout != OUTPUT {
            let detail = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(BootError::Failed { program: "vincs", what: "did not run the command", detail });
        }
        let text = std::fs::read(&stats).map_err(file_error("cannot read vincs's statistics"))?;
        let stats: Value = serde_json::from_slice(&text).unwrap_or_default();
        read(&stats, &initramfs).ok_or_else(|| BootError::Failed {
            program: "vincs",
            what: "wrote statistics that lack something",
            detail: stats.to_string(),
        })
    }
}

fn read(stats: &Value, initramfs: &Path) -> Option<Run> {
    let (config, times) = (&stats["config"], &stats["times"]);
    let seconds = |name: &str| times[name].as_f64();
    let shares = config["shares"].as_array()?.iter().map(|share| Some(share.as_str()?.to_owned()));
    let guest = Guest {
        kernel: config["kernel"].as_str()?.into(),
        initramfs: initramfs.to_owned(),
        cmdline: config["cmdline"].as_str()?.to_owned(),
        vcpus: u32::try_from(config["vcpus"].as_u64()?).ok()?,
        shares: shares.collect::<Option<_>>()?,
    };
    let boot = Boot { set_up: seconds("start_to_kernel_entry")?, boot: seconds("kernel_entry_to_first_byte")? };
    Some(Run { boot, guest, exits: exits(&stats["machine"]) })
}

/// The counters of all virtual processors, added up.
fn exits(machine: &Value) -> Vec<(String, u64)> {
    let vcpus: Vec<_> = machine["vcpus"].as_array().into_iter().flatten().filter_map(Value::as_object).collect();
    let names = vcpus.first().map(|vcpu| vcpu.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let sum = |name: &str| vcpus.iter().filter_map(|vcpu| vcpu.get(name)?.as_u64()).sum();
    names.into_iter().map(|name| (name.clone(), sum(&name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_guest_and_exits_are_read_from_the_statistics() {
        let stats = serde_json::json!({
            "config": { "kernel": "/k", "cmdline": "quiet", "vcpus": 2, "shares": ["/", "/srv"] },
            "times": { "start_to_kernel_entry": 0.5, "kernel_entry_to_first_byte": 2.25 },
            "machine": { "vcpus": [{ "halts": 3, "mmio": 1 }, { "halts": 4, "mmio": 0 }] },
        });
        let run = read(&stats, Path::new("/i")).unwrap();
        assert_eq!(run.boot, Boot { set_up: 0.5, boot: 2.25 });
        assert_eq!(run.exits, [("halts".to_owned(), 7), ("mmio".to_owned(), 1)]);
        assert_eq!((run.guest.vcpus, run.guest.shares), (2, vec!["/".to_owned(), "/srv".to_owned()]));
    }

    #[test]
    fn statistics_of_a_boot_without_output_are_refused() {
        let stats = serde_json::json!({
            "config": { "kernel": "/k", "cmdline": "", "vcpus": 1, "shares": [] },
            "times": { "start_to_kernel_entry": 0.5, "kernel_entry_to_first_byte": null },
        });
        assert!(read(&stats, Path::new("/i")).is_none());
    }
}
