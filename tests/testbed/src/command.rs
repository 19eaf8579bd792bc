//! The command of a run, as the shell script that the node starts.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::TestbedError;

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

/// What a node of a run does with the run's command.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role<'a> {
    /// It is the only node, and runs it.
    Alone,
    /// It runs it as soon as so many others do what they are asked to, by this program.
    First { program: &'a Path, others: u32 },
    /// It does what others ask it to, with this program.
    Other { program: &'a Path },
}

/// Serves the other nodes, waits until they serve, and goes on as the command. The server is no child of the command, which might wait for it.
const SIDE_BY_SIDE: &str = r#"program=$0; ("$program" serve-commands </dev/null >/dev/null 2>&1 &)
"$program" await-hosts "$1" || exit 125; shift; exec "$@""#;

/// The script that node.sh runs: working directory, environment, then the command in its place.
pub(crate) fn start_script(command: &Command, role: Role<'_>, dir: &Path, env: &[(OsString, OsString)]) -> Vec<u8> {
    let mut script = b"cd ".to_vec();
    quote(dir.as_os_str(), &mut script);
    script.extend_from_slice(b" || exit 126\nexec env -i");
    let mut words = Vec::<OsString>::new();
    for (name, value) in env {
        let mut setting = name.clone();
        setting.push("=");
        setting.push(value);
        words.push(setting);
    }
    if let Role::First { program, others } = role {
        words.extend(["/bin/sh".into(), "-c".into(), SIDE_BY_SIDE.into(), program.into(), others.to_string().into()]);
    }
    match (role, command) {
        (Role::Other { program }, _) => words.extend([program.into(), "serve-commands".into()]),
        (Role::Alone | Role::First { .. }, Command::Shell(_)) => {
            words.extend(["/bin/sh", "/run/testbed/script"].map(Into::into));
        }
        (Role::Alone | Role::First { .. }, Command::Program(program)) => {
            words.extend(["/bin/sh", "-c", "exec \"$@\"", "sh"].map(Into::into));
            words.extend_from_slice(program);
        }
    }
    for word in words {
        script.push(b' ');
        quote(&word, &mut script);
    }
    script.push(b'\n');
    script
}

/// The command `on` of the nodes, which a user or mpirun finds on PATH.
pub(crate) fn on_script(program: &Path) -> Vec<u8> {
    let mut script = b"#!/bin/sh\nexec ".to_vec();
    quote(program.as_os_str(), &mut script);
    script.extend_from_slice(b" on \"$@\"\n");
    script
}

/// The program that runs commands for other nodes: this one, or that among the release binaries.
pub(crate) fn remote_program(binaries: Option<&Path>) -> Result<PathBuf, TestbedError> {
    let this = std::env::current_exe().ok().filter(|exe| exe.file_name() == Some(OsStr::new("testbed")));
    let built = || binaries.map(|dir| dir.join("testbed")).filter(|file| file.is_file());
    this.or_else(built).ok_or(TestbedError::NoRemoteProgram)
}

/// How `mpirun` works in a node without options, in versions 4 (OMPI_MCA_…) and 5 (PRTE_MCA_…) of Open MPI. It may run as root, as the
/// node has no other user logged in, and start more ranks than the node has processors. It binds no rank to a processor: a rank
/// has several threads.
const MPI: [(&str, &str); 6] = [
    ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
    ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
    ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
    ("OMPI_MCA_hwloc_base_binding_policy", "none"),
    ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
    ("PRTE_MCA_hwloc_default_binding_policy", "none"),
];

/// Open MPI's own traffic on a node by itself: it stays on the loopback.
const MPI_ALONE: [(&str, &str); 2] = [("OMPI_MCA_oob_tcp_if_include", "lo"), ("OMPI_MCA_btl_tcp_if_include", "lo")];

/// The same over nodes side by side: it takes the network for commands, and `on` instead of ssh.
const MPI_SIDE_BY_SIDE: [(&str, &str); 4] = [
    ("OMPI_MCA_oob_tcp_if_include", "eth2"),
    ("OMPI_MCA_btl_tcp_if_include", "eth2"),
    ("OMPI_MCA_plm_rsh_agent", "on"),
    ("PRTE_MCA_plm_ssh_agent", "on"),
];

/// Where nodes side by side have `on`.
const COMMANDS: &str = "/run/testbed/commands";

/// The caller's environment as the node has it: the release binaries first on PATH, Open MPI as [`MPI`] and what belongs to it say, the cache
/// of kernels where this machine has it. `side_by_side` when there are other nodes.
pub(crate) fn node_env(
    caller: impl Iterator<Item = (OsString, OsString)>,
    binaries: Option<&Path>,
    cache: &Path,
    side_by_side: bool,
) -> Vec<(OsString, OsString)> {
    let network: &[(&str, &str)] = if side_by_side { &MPI_SIDE_BY_SIDE } else { &MPI_ALONE };
    let mpi = || MPI.iter().chain(network);
    let is_ours =
        |name: &OsStr| ["PATH", "VINCS_CACHE"].iter().chain(mpi().map(|(mpi, _)| mpi)).any(|our| name == *our);
    let (ours, mut env): (Vec<_>, Vec<_>) = caller.partition(|(name, _)| is_ours(name));
    let mut path = Vec::new();
    let caller_path = ours.into_iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.into_vec());
    let parts = [
        binaries.map(|dir| dir.as_os_str().as_bytes().to_vec()),
        side_by_side.then(|| COMMANDS.into()),
        caller_path,
        Some(SYSTEM_PATH.into()),
    ];
    for part in parts.into_iter().flatten().filter(|part| !part.is_empty()) {
        if !path.is_empty() {
            path.push(b':');
        }
        path.extend_from_slice(&part);
    }
    env.push(("PATH".into(), OsString::from_vec(path)));
    env.push(("VINCS_CACHE".into(), cache.into()));
    env.extend(mpi().map(|(name, value)| (name.into(), value.into())));
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
        let script = start_script(command, Role::Alone, Path::new("/"), env);
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
        let env = node_env(caller.into_iter(), Some(Path::new("/r")), Path::new("/c"), false);
        assert!(env.contains(&pair("PATH", "/r:/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin")));
        assert!(env.contains(&pair("LANG", "C")));
        assert!(env.contains(&pair("VINCS_CACHE", "/c")));
        assert!(MPI.iter().chain(&MPI_ALONE).all(|(name, value)| env.contains(&pair(name, value))));
        assert!(!env.contains(&mpi));
        assert_eq!(env.len(), 3 + MPI.len() + MPI_ALONE.len());
    }

    #[test]
    fn nodes_side_by_side_find_each_other() {
        let env = node_env(std::iter::empty(), None, Path::new("/c"), true);
        assert!(env.contains(&pair("PATH", &format!("{COMMANDS}:{SYSTEM_PATH}"))));
        assert!(MPI.iter().chain(&MPI_SIDE_BY_SIDE).all(|(name, value)| env.contains(&pair(name, value))));
        assert!(!env.contains(&pair("OMPI_MCA_oob_tcp_if_include", "lo")));
    }

    #[test]
    fn the_first_of_several_nodes_waits_for_the_others() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("a 'program");
        let run = |awaited: u8| {
            // Notes what it is asked for, and says that the others did or did not come.
            let text = format!("#!/bin/sh\necho \"$@\" >>'{}/asked'\nexit {awaited}\n", dir.path().display());
            std::fs::write(&program, text).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let command = Command::Program(vec!["/bin/echo".into(), "a  b".into(), "c".into()]);
            let role = Role::First { program: &program, others: 1 };
            let script = start_script(&command, role, Path::new("/"), &[]);
            std::process::Command::new("sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap()
        };
        let came = run(0);
        assert_eq!((came.status.code(), came.stdout), (Some(0), b"a  b c\n".to_vec()));
        assert!(std::fs::read_to_string(dir.path().join("asked")).unwrap().contains("await-hosts 1\n"));
        let missed = run(1);
        assert_eq!((missed.status.code(), missed.stdout), (Some(125), Vec::new()));
    }

    #[test]
    fn without_binaries_and_path_the_system_folders_remain() {
        let env = node_env(std::iter::empty(), None, Path::new("/c"), false);
        assert!(env.contains(&pair("PATH", SYSTEM_PATH)));
    }

    #[test]
    fn a_missing_working_directory_is_status_126() {
        let script = start_script(&Command::Program(vec!["true".into()]), Role::Alone, Path::new("/no such dir"), &[]);
        let out = std::process::Command::new("sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap();
        assert_eq!(out.status.code(), Some(126));
    }
}
