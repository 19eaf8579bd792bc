//! Cases that run in one testbed node: a script runs them all, tests look at what each gave.
//!
//! A folder of `tests/tests/` has the script, `cases.sh`, which uses `tests/tests/cases.sh`. Each case leaves a folder with `status`,
//! `stdout`, `stderr` and what else it keeps.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends by panicking, in its helpers too"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use vincs_testbed::{End, Testbed};

/// Bounds what all cases of one script take, also on a slow machine that does other things. It ends what hangs, and tests nothing.
pub const PATIENCE: Duration = Duration::from_secs(3600);

/// Exit status of every rank of a machine that lost one.
pub const RANK_LOST: i32 = 120;

/// Seconds within which every rank ends when one is lost.
pub const END_TIME: f64 = 10.0;

/// What all cases of one script gave.
#[derive(Debug)]
pub struct Cases(TempDir);

/// What one case gave.
#[derive(Debug)]
pub struct Case {
    /// Where its files are.
    pub folder: PathBuf,
    /// The exit status.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Where the scripts of cases are.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

impl Cases {
    /// Runs `cases.sh` of this folder of `tests/tests/` in a node.
    ///
    /// # Panics
    /// When the node or the script does not get to its end. A case that failed does not stop the others.
    #[must_use]
    pub fn run(folder: &str, testbed: &Testbed) -> Self {
        let folder = scripts().join(folder);
        let output = testbed.run(&format!("exec bash '{0}/cases.sh' '{0}'", folder.display())).unwrap();
        let progress = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.end, End::Exited(0), "{progress}\n{}", output.console_tail);
        Self::unpacked(&progress, &output.stdout)
    }

    /// Runs `cases.sh` of this folder on this machine itself, as root and in namespaces of its own for processes, network, mounts and the host's name: it
    /// has no network but its own loopback, and whatever it started ends with it, and it with this process. The release binaries come first on
    /// its PATH.
    ///
    /// # Panics
    /// When the script does not get to its end.
    #[must_use]
    pub fn run_here(folder: &str, arguments: &[&Path]) -> Self {
        let folder = scripts().join(folder);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let release = vincs_testbed::release_dir().expect("release binaries: run `make build`");
        let dirs = [release, "/usr/sbin".into(), "/sbin".into()];
        let path = std::env::join_paths(dirs.into_iter().chain(std::env::split_paths(&path))).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "--uts", "--pid", "--mount", "--mount-proc"]);
        command.args(["--fork", "--kill-child=KILL", "bash"]).arg(folder.join("cases.sh")).arg(&folder);
        let output = command.args(arguments).env("PATH", path).stdin(Stdio::null()).output().unwrap();
        let progress = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {progress}", output.status);
        Self::unpacked(&progress, &output.stdout)
    }

    /// The results in an archive.
    fn unpacked(progress: &str, archived: &[u8]) -> Self {
        // Past what keeps the words of tests that pass: how long each case took is of interest then, too.
        let _ = io::stderr().write_all(progress.as_bytes());
        let results = tempfile::tempdir().unwrap();
        let archive = results.path().join("results.tar");
        fs::write(&archive, archived).unwrap();
        let tar = Command::new("tar").arg("-C").arg(results.path()).arg("-xf").arg(&archive).status().unwrap();
        assert!(tar.success());
        Self(results)
    }

    /// The folder with the folders of the cases.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// The statistics that a machine wrote to `$out/stats-NAME.json`.
    ///
    /// # Panics
    /// When there are none of this name.
    #[must_use]
    pub fn stats(&self, name: &str) -> Value {
        let file = self.folder().join(format!("stats-{name}.json"));
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        serde_json::from_str(&text).unwrap()
    }

    /// What the case of this name gave; its status must be the expected one.
    ///
    /// # Panics
    /// When there is no such case, or it has another status.
    #[must_use]
    pub fn case(&self, name: &str, status: i32) -> Case {
        let folder = self.folder().join(name);
        let text = |file| {
            let bytes = fs::read(folder.join(file)).unwrap_or_else(|error| panic!("{name}: {file}: {error}"));
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let case = Case {
            status: text("status").trim().parse().unwrap(),
            stdout: text("stdout"),
            stderr: text("stderr"),
            folder: folder.clone(),
        };
        assert_eq!(case.status, status, "{name}: {}{}", case.stdout, case.stderr);
        case
    }

    /// A machine of two ranks that lost this one, which ended with this status (`tests/tests/lost.sh`): the other ended in time, with one line that
    /// names it, and nothing is left.
    ///
    /// # Panics
    /// When not.
    pub fn assert_lost(&self, name: &str, lost: u32, lost_status: i32) {
        let case = self.case(name, 0);
        let ended = |rank: u32| {
            let words: Vec<&str> = case.line(&format!("rank{rank}")).split(' ').collect();
            let [status, seconds] = words[..] else { panic!("{name}: {}{}", case.stdout, case.stderr) };
            (status.parse::<i32>().unwrap(), seconds.parse::<f64>().unwrap())
        };
        let (status, seconds) = ended(1 - lost);
        assert_eq!(status, RANK_LOST, "{name}: {}", case.stderr);
        assert!(seconds < END_TIME, "{name}: ended after {seconds} s");
        assert_eq!(ended(lost).0, lost_status, "{name}: {}", case.stderr);
        assert_eq!(case.line("left"), "0", "processes: {}", case.stdout);
        let said = String::from_utf8(case.bytes(&format!("stderr.{}", 1 - lost))).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        let [line] = lines[..] else { panic!("{name}: not one line: {said}") };
        assert!(line.starts_with("vincs: ") && line.contains(&format!("rank {lost}")), "{name}: {line}");
    }
}

impl Case {
    /// The rest of the first line of standard output that starts with this word.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn line(&self, word: &str) -> &str {
        let rest = self.stdout.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        rest.unwrap_or_else(|| panic!("no line {word} in {}{}", self.stdout, self.stderr))
    }

    /// The bytes of a file that the case keeps.
    ///
    /// # Panics
    /// When it keeps none of this name.
    #[must_use]
    pub fn bytes(&self, file: &str) -> Vec<u8> {
        fs::read(self.folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}: {}", self.stderr))
    }

    /// What vincs itself said on standard error, without its name.
    #[must_use]
    pub fn messages(&self) -> Vec<&str> {
        self.stderr.lines().filter_map(|line| line.strip_prefix("vincs: ")).collect()
    }

    /// vincs's own message, its first line on standard error.
    #[must_use]
    pub fn message(&self) -> &str {
        self.messages().first().copied().unwrap_or(&self.stderr)
    }
}

/// Whether every stressor of `stress.sh` has done something, and all that they checked was right.
///
/// # Panics
/// When not.
pub fn assert_stressed(case: &Case) {
    for stressor in ["fork", "pipe", "futex", "sigq", "mutex", "vm", "atomic"] {
        assert_did(case, stressor);
    }
    assert!(!case.stdout.contains("fail:"), "{}", case.stdout);
}

/// Whether a stressor of `stress.sh` has done something.
///
/// # Panics
/// When not.
pub fn assert_did(case: &Case, stressor: &str) {
    let operations = case.stdout.lines().find_map(|line| {
        // stress-ng: metrc: [pid] NAME OPERATIONS …
        let (_, row) = line.split_once("] ").filter(|(head, _)| head.contains("metrc") || head.contains("info"))?;
        let mut words = row.split_whitespace();
        (words.next() == Some(stressor)).then(|| words.next()?.parse::<u64>().ok()).flatten()
    });
    assert!(operations.is_some_and(|count| count > 0), "{stressor}: {}", case.stdout);
}

/// Whether a build of the small C project (`keep_build` of `tests/tests/cases.sh`) made what a build on this machine itself makes, with times in order.
///
/// # Panics
/// When not.
pub fn assert_built(case: &Case) {
    for (file, bytes) in &*NATIVE_BUILD {
        let folder = case.folder.display();
        assert!(&case.bytes(&format!("made/{file}")) == bytes, "{folder}: {file} differs from a native build's");
    }
    for said in [&case.stdout, &case.stderr] {
        assert!(!said.contains("Clock skew") && !said.contains("future"), "{said}");
    }
}

/// What `make` makes of it, by name.
static NATIVE_BUILD: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(|| {
    let native = tempfile::tempdir().unwrap();
    for file in fs::read_dir(scripts().join("boot/project")).unwrap() {
        let file = file.unwrap().path();
        fs::copy(&file, native.path().join(file.file_name().unwrap())).unwrap();
    }
    let make = Command::new("make").arg("-s").env_remove("MAKEFLAGS").current_dir(native.path()).status().unwrap();
    assert!(make.success());
    let made = ["primes.o", "sort.o", "text.o", "matrix.o", "main.o", "libproject.a", "program", "checked"];
    made.map(|file| (file.to_owned(), fs::read(native.path().join(file)).unwrap())).into()
});
