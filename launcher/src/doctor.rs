//! `vincs doctor`: what this host can do for vincs, and what to do about what it cannot.

mod cluster;
mod guest;
mod kvm;
mod memory;
#[cfg(feature = "rdma")]
mod rdma;
#[cfg(not(feature = "rdma"))]
#[path = "doctor/no_rdma.rs"]
mod rdma;
mod ring0;

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use crate::cli::DoctorArgs;

/// How good a finding is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Level {
    /// As it should be.
    Ok,
    /// vincs runs a guest on this host, but some of it is slower or missing.
    Warn,
    /// vincs cannot run a Linux guest on this host.
    Fail,
}

/// What a check found.
#[derive(Debug)]
struct Finding {
    level: Level,
    /// The fact, and after a dash what to do about it.
    text: String,
}

impl Finding {
    fn ok(fact: impl fmt::Display) -> Self {
        Self { level: Level::Ok, text: fact.to_string() }
    }

    fn warn(fact: impl fmt::Display, remedy: &str) -> Self {
        Self { level: Level::Warn, text: format!("{fact} — {remedy}") }
    }

    fn fail(fact: impl fmt::Display, remedy: &str) -> Self {
        Self { level: Level::Fail, text: format!("{fact} — {remedy}") }
    }
}

/// A check's name and what it finds, given the KVM device: one thing, but for RDMA one for each device.
type Check = (&'static str, fn(&Path) -> Vec<Finding>);

/// All checks, in the order they are shown.
const CHECKS: [Check; 11] = [
    ("kvm", |kvm| vec![kvm::usable(kvm)]),
    ("kvm-native", |kvm| vec![kvm::native(kvm)]),
    ("kvm-capabilities", |kvm| vec![kvm::capabilities(kvm)]),
    ("guest-kernel", |_| vec![guest::kernel()]),
    ("guest-modules", |_| vec![guest::modules()]),
    ("userfaultfd", |_| vec![memory::userfaultfd()]),
    ("page-walks", |_| vec![cluster::page_walks()]),
    ("locked-memory", |_| vec![memory::locked_memory()]),
    ("rdma", |_| rdma::devices()),
    ("mpi", |_| vec![cluster::mpi()]),
    ("slurm", |_| vec![cluster::slurm()]),
];

/// Why the doctor could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoctorError {
    #[error("no check is named {0}: give one of {known}", known = CHECKS.map(|(name, _)| name).join(", "))]
    UnknownCheck(String),
    #[error("stdout does not take the findings: {0}")]
    Output(#[from] io::Error),
}

/// Makes the checks and prints their findings to stdout; says whether all is well (or, with `--check`, that check is).
///
/// # Errors
/// [`DoctorError`] for an unknown check or a closed stdout.
pub(crate) fn run(args: &DoctorArgs) -> Result<bool, DoctorError> {
    let asked = args.check.as_deref();
    if let Some(name) = asked.filter(|name| CHECKS.iter().all(|(known, _)| known != name)) {
        return Err(DoctorError::UnknownCheck(name.to_owned()));
    }
    let mut worst_allowed = true;
    let mut stdout = io::stdout().lock();
    for (name, check) in CHECKS.iter().filter(|(name, _)| asked.is_none_or(|asked| asked == *name)) {
        let findings = check(&args.kvm);
        // Of several things of one kind one that can be used is enough.
        worst_allowed &= asked.is_none() || findings.iter().any(|finding| finding.level == Level::Ok);
        for finding in findings {
            let level = match finding.level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "fail",
            };
            writeln!(stdout, "{level:<4}  {name}: {}", finding.text)?;
            worst_allowed &= asked.is_some() || finding.level != Level::Fail;
        }
    }
    Ok(worst_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_check_lists_the_known_ones() {
        let args = DoctorArgs { check: Some("luck".into()), kvm: "/dev/kvm".into() };
        let message = run(&args).unwrap_err().to_string();
        assert!(message.contains("luck") && message.contains("kvm-native") && message.contains("slurm"), "{message}");
    }
}
