//! The command of a run, as the shell script that the node starts.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// How far above a test's or program's own folder cargo's `release` folder may be: `target/debug/deps` is two below `target`.
const RELEASE_SEARCH_DEPTH: usize = 3;

/// System folders that are looked in besides the caller's PATH, here and in the node: `ip` and `rdma` are there, and an ordinary user's PATH leaves them out.
pub(crate) const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What runs in the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A program and its arguments.
    Program(Vec<OsString>),
    /// A script for `/bin/sh`, of any length.
    Shell(OsString),
}

/// The folder with the release binaries: the nearest `release` folder above the running program, if there is one.
pub fn release_dir() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    exe.ancestors().skip(1).take(RELEASE_SEARCH_DEPTH + 1).map(|dir| dir.join("release")).find(|dir| dir.is_dir())
}

/// The script that node.sh runs: working directory, environment, then the command in its place.
pub(crate) fn start_script(command: &Command, dir: &Path, env: &[(OsString, OsString)]) -> Vec<u8> {
    let mut script = b"cd ".to_vec();
    quote(dir.as_os_str(), &mut script);
    script.extend_from_slice(b" || exit 126\nexec env -i");
    for (name, value) in env {
        let mut setting = name.clone();
        setting.push("=");
        setting.push(value);
        script.push(b' ');
        quote(&setting, &mut script);
    }
    match command {
        Command::Shell(_) => script.extend_from_slice(b" /bin/sh /run/testbed/script"),
        Command::Program(words) => {
            script.extend_from_slice(b" /bin/sh -c 'exec \"$@\"' sh");
            for word in words {
                script.push(b' ');
                quote(word, &mut script);
            }
        }
    }
    script.push(b'\n');
    script
}

/// How `mpirun` works in a node without options, in versions 4 (OMPI_MCA_…) and 5 (PRTE_MCA_…) of Open MPI. It may run as root, as the
/// node has no other user logged in, and start more ranks than the node has processors. It binds no rank to a processor: a rank
/// has several threads. Its own traffic stays on the loopback.
const MPI: [(&str, &str); 8] = [
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
    ("OMPI_MCA_hwloc_base_binding_policy", "none"),
    ("OMPI_MCA_oob_tcp_if_include", "lo"),
    ("OMPI_MCA_btl_tcp_if_include", "lo"),
    ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
    ("PRTE_MCA_hwloc_default_binding_policy", "none"),
];

/// The caller's environment as the node has it: the release binaries first on PATH, Open MPI as [`MPI`] says, the cache of kernels where
/// this machine has it.
pub(crate) fn node_env(
    caller: impl Iterator<Item = (OsString, OsString)>,
    binaries: Option<&Path>,
    cache: &Path,
) -> Vec<(OsString, OsString)> {
    let is_ours =
        |name: &OsStr| ["PATH", "VINCS_CACHE"].iter().chain(MPI.iter().map(|(mpi, _)| mpi)).any(|our| name == *our);
    let (ours, mut env): (Vec<_>, Vec<_>) = caller.partition(|(name, _)| is_ours(name));
    let mut path = Vec::new();
    let caller_path = ours.into_iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.into_vec());
    let parts = [binaries.map(|dir| dir.as_os_str().as_bytes().to_vec()), caller_path, Some(SYSTEM_PATH.into())];
    for part in parts.into_iter().flatten().filter(|part| !part.is_empty()) {
        if !path.is_empty() {
            path.push(b':');
        }
        path.extend_from_slice(&part);
    }
    env.push(("PATH".into(), OsString::from_vec(path)));
    env.push(("VINCS_CACHE".into(), cache.into()));
    env.extend(MPI.map(|(name, value)| (name.into(), value.into())));
    env
}

/// Appends `word` so that a shell reads it back as one word.
fn quote(word: &OsStr, script: &mut Vec<u8>) {
    script.push(b'\'');
    for &byte in word.as_bytes() {
        if byte == b'\'' {
            script.extend_from_slice(b"'\\''");
        } else {
            script.push(byte);
        }
    }
    script.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (OsString, OsString) {
        (name.into(), value.into())
    }

    /// Runs a start script with this machine's shell.
    fn run(command: &Command, env: &[(OsString, OsString)]) -> std::process::Output {
        let script = start_script(command, Path::new("/"), env);
        std::process::Command::new("sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap()
    }

    #[test]
    fn a_shell_reads_words_and_settings_back_unchanged() {
        let nasty = OsString::from_vec(b"a'b\"c $HOME `x` \\ \n \xff;*".to_vec());
        let command = Command::Program(vec!["/usr/bin/printf".into(), "%s|%s".into(), nasty.clone(), "".into()]);
        assert_eq!(run(&command, &[]).stdout, [nasty.as_bytes(), b"|"].concat());

        let show = Command::Program(vec!["/usr/bin/printenv".into(), "V".into()]);
        let out = run(&show, &[("V".into(), nasty.clone())]);
        assert_eq!(out.stdout, [nasty.as_bytes(), b"\n"].concat());
    }

    #[test]
    fn a_program_name_with_an_equals_sign_is_no_setting() {
        assert_eq!(run(&Command::Program(vec!["a=b".into()]), &[]).status.code(), Some(127));
    }

    #[test]
    fn the_environment_is_the_callers_with_our_own_settings() {
        let mpi = pair("OMPI_MCA_btl_tcp_if_include", "eth7");
        let caller = [pair("PATH", "/opt/bin"), pair("LANG", "C"), pair("VINCS_CACHE", "/old"), mpi.clone()];
        let env = node_env(caller.into_iter(), Some(Path::new("/r")), Path::new("/c"));
        assert!(env.contains(&pair("PATH", "/r:/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin")));
        assert!(env.contains(&pair("LANG", "C")));
        assert!(env.contains(&pair("VINCS_CACHE", "/c")));
        assert!(MPI.iter().all(|(name, value)| env.contains(&pair(name, value))));
        assert!(!env.contains(&mpi));
        assert_eq!(env.len(), 3 + MPI.len());
    }

    #[test]
    fn without_binaries_and_path_the_system_folders_remain() {
        let env = node_env(std::iter::empty(), None, Path::new("/c"));
        assert!(env.contains(&pair("PATH", SYSTEM_PATH)));
    }

    #[test]
    fn a_missing_working_directory_is_status_126() {
        let script = start_script(&Command::Program(vec!["true".into()]), Path::new("/no such dir"), &[]);
        let out = std::process::Command::new("sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap();
        assert_eq!(out.status.code(), Some(126));
    }
}
