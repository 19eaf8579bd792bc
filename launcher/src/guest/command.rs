//! The order to run CMD, as the caller's shell would run it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{getegid, geteuid, getgroups, umask};
use vincs_guest_protocol::{Command, RELAXED_DEVICE, RELAXED_VARIABLE, Stdio};

use crate::rank::is_of_one_rank;

/// The order for the guest's first program: the caller's environment, user and mask; the environment also tells of relaxed memory.
///
/// # Errors
/// When the kernel does not tell the groups.
pub(crate) fn order(argv: &[OsString], cwd: &Path, stdio: Stdio, has_relaxed: bool) -> io::Result<Command> {
    Ok(Command {
        argv: argv.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        env: variables(std::env::vars_os(), has_relaxed),
        cwd: cwd.as_os_str().as_bytes().to_vec(),
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        groups: getgroups()?.into_iter().map(rustix::process::Gid::as_raw).collect(),
        umask: current_umask(),
        stdio,
    })
}

/// The environment without what a launcher tells one rank, as CMD runs on the whole machine, and with the guest's own relaxed memory: what
/// the caller's variable names is not in the guest.
fn variables(of_vincs: impl Iterator<Item = (OsString, OsString)>, has_relaxed: bool) -> Vec<Vec<u8>> {
    let kept = of_vincs.filter(|(name, _)| !is_of_one_rank(name) && name != RELAXED_VARIABLE);
    let relaxed = has_relaxed.then(|| (RELAXED_VARIABLE.into(), RELAXED_DEVICE.into()));
    kept.chain(relaxed).map(|(name, value)| variable(name, &value)).collect()
}

fn variable(name: OsString, value: &OsStr) -> Vec<u8> {
    let mut variable = name.into_vec();
    variable.push(b'=');
    variable.extend_from_slice(value.as_bytes());
    variable
}

/// The mask can only be read by setting it; nothing creates files meanwhile, as vincs has no other thread yet.
fn current_umask() -> u32 {
    let mask = umask(Mode::from_raw_mode(0o077));
    umask(mask);
    mask.as_raw_mode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_launcher_tells_one_rank_is_not_the_commands() {
        let own = [("A", "1"), ("OMPI_COMM_WORLD_RANK", "3"), ("SLURM_JOB_ID", "7"), ("SLURM_PROCID", "3")];
        let seen = variables(own.into_iter().map(|(name, value)| (name.into(), value.into())), false);
        assert_eq!(seen, [b"A=1".to_vec(), b"SLURM_JOB_ID=7".to_vec()]);
    }

    #[test]
    fn the_guests_own_relaxed_memory_is_told_and_nobody_elses() {
        let callers =
            || [("A", "1"), ("VINCS_RELAXED", "/dev/dax7.0")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(variables(callers().into_iter(), false), [b"A=1".to_vec()]);
        let seen = variables(callers().into_iter(), true);
        assert_eq!(seen, [b"A=1".to_vec(), b"VINCS_RELAXED=/dev/dax0.0".to_vec()]);
    }

    #[test]
    fn the_order_is_the_callers() {
        let argv = [OsString::from("sh"), OsString::from_vec(vec![0xff, b'x'])];
        let order = order(&argv, Path::new("/tmp"), Stdio::Pipes, false).unwrap();
        assert_eq!((order.argv, order.cwd), (vec![b"sh".to_vec(), vec![0xff, b'x']], b"/tmp".to_vec()));
        assert!(order.env.iter().any(|variable| variable.starts_with(b"PATH=")));
        assert_eq!((order.uid, order.umask), (geteuid().as_raw(), current_umask()));
    }
}
