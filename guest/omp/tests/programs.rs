//! OpenMP programs as they are, with the library preloaded: in ordinary memory, in a file in the place of a device, and in one that says that it is of
//! several ranks.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use vincs_guest::{CONTROL_BYTES, RELAXED_VARIABLE};

#[path = "programs/several_ranks.rs"]
mod several_ranks;

use several_ranks::SeveralRanks;

/// The library, which cargo puts beside the tests.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().join("libvincs_omp.so");
    assert!(library.is_file(), "{} was not built", library.display());
    library
}

/// A compiler that has LLVM's OpenMP runtime beside it, the newest one.
fn clang() -> PathBuf {
    let versions = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let with_runtime = |folder: &PathBuf| folder.join("bin/clang").exists() && folder.join("lib/libomp.so").exists();
    let newest = versions.filter(with_runtime).max();
    newest.unwrap_or_else(|| panic!("no clang with libomp in /usr/lib/llvm-*: make setup")).join("bin/clang")
}

/// A folder with one program of those in `programs/`, and what it writes.
struct Program {
    folder: tempfile::TempDir,
    name: &'static str,
}

/// What is counted, by name.
type Counters = BTreeMap<String, u64>;

impl Program {
    fn new(name: &'static str) -> Self {
        Self::compiled(name, &clang(), &["-fno-builtin", "-fopenmp"])
    }

    fn compiled(name: &'static str, compiler: &Path, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name).with_extension("c");
        let mut command = Command::new(compiler);
        command.args(["-O2", "-Wall", "-Wextra", "-Werror"]).args(options).arg("-o");
        let compiled = command.arg(folder.path().join(name)).arg(source).output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Self { folder, name }
    }

    /// With two threads, and without anything of vincs.
    fn command(&self) -> Command {
        let mut command = Command::new(self.folder.path().join(self.name));
        command.env("OMP_NUM_THREADS", "2").current_dir(self.folder.path());
        for variable in
            [RELAXED_VARIABLE, "LD_PRELOAD", "OMP_TOOL", "OMP_TOOL_LIBRARIES", "VINCS_OMP_LARGE", "KMP_FORCE_REDUCTION"]
        {
            command.env_remove(variable);
        }
        command
    }

    /// The same with the library, and its counters kept.
    fn preloaded(&self) -> Command {
        let mut command = self.command();
        command.env("LD_PRELOAD", library()).env("VINCS_OMP_STATS", self.statistics());
        command
    }

    fn statistics(&self) -> PathBuf {
        self.folder.path().join("statistics")
    }

    fn counters(&self) -> Counters {
        let text = fs::read_to_string(self.statistics()).unwrap();
        let pair = |line: &str| line.split_once(' ').map(|(name, number)| (name.to_owned(), number.parse().unwrap()));
        text.lines().map(|line| pair(line).unwrap()).collect()
    }

    /// A file of so many bytes for arrays, full of sevens.
    fn file(&self, bytes: usize) -> PathBuf {
        let path = self.folder.path().join("relaxed");
        fs::write(&path, vec![7; CONTROL_BYTES + bytes]).unwrap();
        path
    }

    /// Its counters, after it has said the same as without the library: with two threads in ordinary memory, three in a file.
    fn runs_as_ever(&self) -> [Counters; 2] {
        let alone = said(&mut self.command());
        let file = self.file(8 << 20);
        [None, Some(&file)].map(|file| {
            let mut command = self.preloaded();
            if let Some(file) = file {
                command.env(RELAXED_VARIABLE, file).env("OMP_NUM_THREADS", "3");
            }
            assert_eq!(said(&mut command), alone);
            let counters = self.counters();
            assert_eq!((counters["device"], counters["ranks"]), (u64::from(file.is_some()), 1));
            assert_eq!(counters["refused_allocations"], 0);
            assert_eq!(counters["parallel_regions"], counters["parallel_region_ends"]);
            assert!(counters["acquires"] >= counters["sync_region_ends"] + counters["mutexes_acquired"]);
            assert!(counters["releases"] >= counters["sync_regions"] + counters["mutexes_released"]);
            counters
        })
    }

    /// Its counters on several ranks, after it has said the same as ever and asked for what they say.
    fn runs_on_ranks(&self) -> Counters {
        let alone = said(&mut self.command());
        let ranks = SeveralRanks::new(&self.folder.path().join("ranks"), 8 << 20);
        // Two threads: their waiting must not take the time of who answers.
        assert_eq!(said(self.preloaded().env(RELAXED_VARIABLE, ranks.path()).env("KMP_BLOCKTIME", "0")), alone);
        let counters = self.counters();
        assert_eq!((counters["device"], counters["ranks"], counters["refused_allocations"]), (1, 1, 0));
        let [begins, tells, hears, others] = ranks.asked();
        assert_eq!((begins, others), (1, 0));
        // What is given out and back is heard and told besides; the last two when all has been counted.
        let large = counters["large_allocations"];
        assert!((counters["releases"]..=counters["releases"] + large + 2).contains(&tells), "{tells}: {counters:?}");
        assert!(
            (counters["acquires"]..=counters["acquires"] + 2 * large + 2).contains(&hears),
            "{hears}: {counters:?}"
        );
        counters
    }
}

/// What a program says that ends well and without complaints.
fn said(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success() && stderr.is_empty(), "{command:?}: {status:?}: {stderr}");
    String::from_utf8(stdout).unwrap()
}

/// Its exit status, and the one line of its complaint.
fn complained(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{command:?}: {stderr}");
    assert!(stderr.starts_with("libvincs_omp: "), "{stderr}");
    (output.status.code(), stderr)
}

#[test]
fn loops_and_their_barriers() {
    let [two, three] = Program::new("parallel_for").runs_as_ever();
    for (threads, counters) in [(2, two), (3, three)] {
        assert_eq!((counters["large_allocations"], counters["parallel_regions"]), (4, 2));
        // A barrier after each of 20 loops, and at the end of each region.
        assert_eq!(counters["sync_regions"], 22 * threads);
        // The program's own is one, too.
        assert_eq!(counters["implicit_tasks"], 2 * threads + 1);
    }
}

#[test]
fn reductions_add_under_a_lock() {
    let [two, three] = Program::new("reduction").runs_as_ever();
    for (threads, counters) in [(2, two), (3, three)] {
        assert_eq!(counters["large_allocations"], 2);
        assert_eq!((counters["reductions"], counters["reduction_ends"]), (2 * threads, 2 * threads));
    }
}

#[test]
fn locks_and_critical_regions() {
    let [two, three] = Program::new("critical").runs_as_ever();
    for (threads, counters) in [(2, two), (3, three)] {
        assert_eq!((counters["large_allocations"], counters["flushes"]), (1, threads));
        // Two regions, a lock twice, and a nested lock, which is had at the first time and let go at the second.
        assert_eq!(counters["mutexes_acquired"], 500 * 5 * threads);
        assert_eq!(counters["mutexes_released"], 500 * 6 * threads);
    }
}

#[test]
fn tasks_wherever_they_run() {
    for counters in Program::new("tasks").runs_as_ever() {
        assert_eq!(counters["large_allocations"], 2, "a task's copy is the runtime's");
        // Of the tree, the chain, the loop, the untied ones, and three.
        let tasks = 30 + 63 + 64 + 64 + 3;
        assert!(counters["tasks_created"] >= tasks, "{counters:?}");
        assert!(counters["task_switches"] >= 2 * tasks, "to each and from it: {counters:?}");
        assert!(counters["dependences"] >= 2, "one waited for, one fulfilled: {counters:?}");
    }
}

#[test]
fn iterations_in_order() {
    for counters in Program::new("ordered").runs_as_ever() {
        assert_eq!(counters["large_allocations"], 3);
        assert_eq!((counters["mutexes_acquired"], counters["mutexes_released"]), (500, 500));
        // Each row waits for the one before it, and is waited for.
        assert_eq!(counters["dependences"], 2 * 200);
    }
}

#[test]
fn all_other_constructs() {
    for counters in Program::new("constructs").runs_as_ever() {
        assert_eq!(counters["large_allocations"], 3);
        assert!(counters["flushes"] >= 2 && counters["dependences"] >= 40, "{counters:?}");
        assert!(counters["tasks_created"] >= 5 * 40 && counters["sync_region_ends"] > 0, "{counters:?}");
    }
}

#[test]
fn files_are_read_and_written_as_ever() {
    for counters in Program::new("files").runs_as_ever() {
        assert_eq!(counters["large_allocations"], 2);
    }
}

#[test]
fn programs_on_several_ranks_tell_and_hear_where_they_synchronise() {
    for name in ["parallel_for", "reduction", "ordered", "tasks", "constructs", "files"] {
        let counters = Program::new(name).runs_on_ranks();
        assert!(counters["releases"] >= 10 && counters["acquires"] >= 10, "{name}: {counters:?}");
    }
    let few = Program::compiled("critical", &clang(), &["-fno-builtin", "-fopenmp", "-DROUNDS=20"]);
    assert_eq!(few.runs_on_ranks()["mutexes_released"], 20 * 6 * 2);
}

#[test]
fn what_a_user_asks_of_the_runtime_and_several_ranks_do_not_have_is_told() {
    let program = Program::new("reduction");
    let with = |variables: &[(&str, &str)], run: &dyn Fn(&mut Command)| {
        let ranks = SeveralRanks::new(&program.folder.path().join("ranks"), 8 << 20);
        let mut command = program.preloaded();
        run(command.env(RELAXED_VARIABLE, ranks.path()).env("KMP_BLOCKTIME", "0").envs(variables.iter().copied()));
    };
    with(&[("OMP_PROC_BIND", "close"), ("OMP_PLACES", "cores")], &|command| {
        let (status, line) = complained(command);
        assert!(status == Some(0) && line.contains("OMP_PROC_BIND, OMP_PLACES ignored"), "{line}");
    });
    with(&[("KMP_FORCE_REDUCTION", "atomic")], &|command| {
        let (status, line) = complained(command);
        assert!(status == Some(2) && line.contains("KMP_FORCE_REDUCTION=atomic"), "{line}");
    });
    with(&[("KMP_FORCE_REDUCTION", "critical")], &|command| drop(said(command)));
}

#[test]
fn programs_of_the_other_runtime_are_told_where_they_could_have_had_relaxed_memory() {
    let program = Program::compiled("reduction", Path::new("gcc"), &["-fopenmp"]);
    let alone = said(&mut program.command());
    assert_eq!(said(&mut program.preloaded()), alone, "outside of vincs there is nothing to say");
    let (status, line) = complained(program.preloaded().env(RELAXED_VARIABLE, "/dev/no-such-dax"));
    assert!(status == Some(0) && line.contains("GCC's OpenMP runtime") && line.contains("clang"), "{line}");
    // Both runtimes in one program.
    let both = Program::compiled(
        "parallel_for",
        &clang(),
        &["-fno-builtin", "-fopenmp", "-Wl,--no-as-needed", "-l:libgomp.so.1"],
    );
    let ranks = SeveralRanks::new(&both.folder.path().join("ranks"), 8 << 20);
    let (status, line) = complained(both.preloaded().env(RELAXED_VARIABLE, ranks.path()));
    assert!(status == Some(0) && line.contains("a part of this program") && line.contains("clang"), "{line}");
    assert!(!both.statistics().exists(), "it has ordinary memory");
}

#[test]
fn memory_is_allocated_as_malloc_promises() {
    let program = Program::new("allocations");
    let said_in_ordinary_memory = said(&mut program.preloaded());
    assert_eq!(said_in_ordinary_memory, "looked at 740 pieces\n");
    assert!(program.counters()["large_allocations"] > 500);
    let mut in_file = program.preloaded();
    // The child neither touches what its parent has there, nor has any of it.
    assert_eq!(said(in_file.env(RELAXED_VARIABLE, program.file(16 << 20))), said_in_ordinary_memory);
    assert!(program.counters()["large_allocations"] > 500);
    let misuse = program.preloaded().arg("misuse").output().unwrap();
    assert_eq!(misuse.status.signal(), Some(6));
    assert!(String::from_utf8_lossy(&misuse.stderr).contains("is no piece of memory"));
}

#[test]
fn what_is_large_can_be_chosen_to_the_byte() {
    let program = Program::new("parallel_for");
    // Four arrays of 100000 numbers.
    for (large, count) in [("800000", 4), ("800001", 0), ("4096", 4)] {
        said(program.preloaded().env("VINCS_OMP_LARGE", large));
        assert_eq!(program.counters()["large_allocations"], count, "{large}");
    }
    let (status, line) = complained(program.preloaded().env("VINCS_OMP_LARGE", "4095"));
    assert!(status == Some(2) && line.contains("VINCS_OMP_LARGE=4095"), "{line}");
}

#[test]
fn what_does_not_fit_is_in_ordinary_memory() {
    let program = Program::new("parallel_for");
    // Room for two of its arrays.
    let (status, line) = complained(program.preloaded().env(RELAXED_VARIABLE, program.file(2_000_000)));
    assert!(status == Some(0) && line.contains("800000") && line.contains("--relaxed"), "{line}");
    let counters = program.counters();
    assert_eq!((counters["large_allocations"], counters["refused_allocations"]), (2, 2));
}

#[test]
fn a_device_that_cannot_be_had() {
    let program = Program::new("parallel_for");
    let (status, line) = complained(program.preloaded().env(RELAXED_VARIABLE, "/dev/no-such-dax"));
    assert!(status == Some(2) && line.contains("/dev/no-such-dax"), "{line}");
    let file = program.file(8 << 20);
    // A process of its own: what this one has open, children of other tests have too until they are what they are to be.
    let mut other = Command::new("flock");
    let other = other.arg("--no-fork").arg(&file).args(["sh", "-c", "echo; exec sleep 1000"]).stdout(Stdio::piped());
    let mut other = other.spawn().unwrap();
    let said_so = other.stdout.as_mut().unwrap().read_exact(&mut [0]);
    assert!(said_so.is_ok(), "it has the lock");
    let (status, line) = complained(program.preloaded().env(RELAXED_VARIABLE, &file));
    assert!(status == Some(0) && line.contains("in use") && line.contains("ordinary memory"), "{line}");
    other.kill().unwrap();
    other.wait().unwrap();
    said(program.preloaded().env(RELAXED_VARIABLE, &file));
}

#[test]
fn other_programs_have_memory_as_ever() {
    let program = Program::compiled("parallel_for", Path::new("gcc"), &["-Wno-unknown-pragmas"]);
    let alone = said(&mut program.command());
    // It would be refused.
    let mut command = program.preloaded();
    assert_eq!(said(command.env(RELAXED_VARIABLE, "/dev/no-such-dax").env("VINCS_OMP_LARGE", "none")), alone);
    assert!(!program.statistics().exists());
}

#[test]
fn without_the_tool_there_is_no_relaxed_memory() {
    let program = Program::new("parallel_for");
    said(program.preloaded().env("OMP_TOOL", "disabled"));
    assert!(!program.statistics().exists(), "nobody would acquire and release");
    let mut tool_alone = program.command();
    let (status, line) = complained(tool_alone.env("OMP_TOOL_LIBRARIES", library()));
    assert!(status == Some(0) && line.contains("LD_PRELOAD"), "{line}");
    let mut both = program.preloaded();
    said(both.env("OMP_TOOL_LIBRARIES", library()));
    assert_eq!(program.counters()["parallel_regions"], 2, "it is one tool all the same");
}

#[test]
fn a_runtime_that_comes_by_dlopen_is_called_as_ever() {
    let loader = Program::compiled("loader", Path::new("gcc"), &[]);
    for compiler in [PathBuf::from("gcc"), clang()] {
        let extension = Program::compiled("extension", &compiler, &["-fopenmp", "-shared", "-fPIC"]);
        let mut command = loader.preloaded();
        assert_eq!(said(command.arg(extension.folder.path().join("extension"))), "3\n", "{}", compiler.display());
    }
}
