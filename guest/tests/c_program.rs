//! Programs in C and C++ with the header and the static library, on ordinary memory and on a file.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking, in its helpers too")]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use vincs_guest::{CONTROL_BYTES, RELAXED_VARIABLE, Team};

/// The static library, which cargo puts beside the tests.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().join("libvincs_guest.a");
    assert!(library.is_file(), "{} was not built", library.display());
    library
}

fn compiled(folder: &Path, compiler: &str, source: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = folder.join("program");
    let gcc = Command::new(compiler)
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg("-I")
        .arg(sources.join("include"))
        .arg(sources.join("tests").join(source))
        .arg(library())
        .args(["-lpthread", "-ldl", "-lm"])
        .output()
        .unwrap();
    assert!(gcc.status.success(), "{}", String::from_utf8_lossy(&gcc.stderr));
    program
}

/// What the program says, line by line.
fn said(program: &Path, relaxed: Option<&Path>) -> Vec<String> {
    let mut command = Command::new(program);
    command.env_remove(RELAXED_VARIABLE);
    if let Some(path) = relaxed {
        command.env(RELAXED_VARIABLE, path);
    }
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{:?}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_c_program_has_all_of_it_on_any_memory() {
    let folder = tempfile::tempdir().unwrap();
    let program = compiled(folder.path(), "gcc", "team.c");
    let members = Team::on_all_processors().unwrap().members();
    let file = folder.path().join("relaxed");
    std::fs::write(&file, vec![7; CONTROL_BYTES + (1 << 20)]).unwrap();
    for relaxed in [None, Some(file.as_path())] {
        let lines = said(&program, relaxed);
        let line = |word: &str| lines.iter().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).unwrap();
        assert_eq!(line("device"), if relaxed.is_some() { "1" } else { "0" });
        if relaxed.is_some() {
            assert_eq!(line("left"), (1 << 20).to_string());
        }
        assert!(line("too much").starts_with("4 out of relaxed memory: "), "{lines:?}");
        assert!(line("too many").starts_with("5 a team of 100000: "), "{lines:?}");
        let mut processors: Vec<_> = line("processors").split(' ').collect();
        processors.sort_unstable();
        processors.dedup();
        assert_eq!(processors.len(), members as usize, "each member on its own: {lines:?}");
        assert_eq!(line("counted"), members.to_string());
        // The squares of 0 to 99999: n(n - 1)(2n - 1) / 6.
        assert_eq!(line("sum"), "333328333350000");
        assert_eq!(line("misuse"), "10 9 8");
        assert!(!lines.iter().any(|line| line.starts_with("member")), "{lines:?}");
    }
    let missing = Command::new(&program).env(RELAXED_VARIABLE, "/dev/no-such-dax").output().unwrap();
    let stderr = String::from_utf8_lossy(&missing.stderr);
    assert!(
        missing.status.code() == Some(1) && stderr.starts_with("open: 2: relaxed memory /dev/no-such-dax"),
        "{stderr}"
    );
}

#[test]
fn an_exception_that_leaves_a_member_ends_the_program_with_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let program = compiled(folder.path(), "g++", "throws.cpp");
    for (what, line) in [("run", "thrown by a member"), ("each", "thrown by a loop")] {
        let output = Command::new(&program).arg(what).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "{:?}: {stderr}", output.status);
        // The first as C++ says it, where the library is built to abort at a panic; the second where it is built to unwind, as for tests.
        let told = [line, "Rust cannot catch foreign exceptions"].iter().any(|line| stderr.contains(line));
        assert!(told, "{stderr}");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "left\ncaught\n",
            "those that are caught are the program's"
        );
    }
}
