//! The program: what it prints, and with what status it ends.

use std::io;
use std::process::{Command, Output};

fn npb(line: &str) -> io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_npb")).args(line.split_whitespace()).output()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_verified_run_says_so_and_ends_with_0() {
    let output = npb("mg S --threads 2").unwrap();
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}");
    for line in [
        " MG Benchmark Completed.",
        " Class           =                        S",
        " Size            =             32x  32x  32",
        " Iterations      =                        4",
        " Total threads   =                        2",
        " Operation type  =           floating point",
        " Verification    =               SUCCESSFUL",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "no {line} in\n{printed}");
    }
    assert!(printed.contains("Time in seconds = ") && printed.contains("Mop/s total     = "));
    assert!(printed.ends_with("VERIFICATION SUCCESSFUL\n"));
    assert!(output.stderr.is_empty());
}

#[test]
fn without_threads_each_processor_has_one() {
    let printed = text(&npb("is s").unwrap().stdout);
    let processors = std::thread::available_parallelism().unwrap();
    assert!(printed.contains(&format!(" Total threads   = {processors:>24}\n")), "{printed}");
}

#[test]
fn wrong_arguments_end_with_2_and_one_line() {
    for line in [
        "",
        "cg",
        "ua S",
        "cg X",
        "cg S --threads 0",
        "cg S --threads 1025",
        "cg S 2",
        "cg S --quick",
        "cg S --ranks 0",
        "cg S --ranks 2 --threads 2",
    ] {
        let output = npb(line).unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {told}");
        assert!(told.starts_with("npb: ") && told.lines().count() == 1, "{line}: {told}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn help_is_no_error() {
    let output = npb("--help").unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with("npb KERNEL CLASS"));
}

#[test]
fn without_memory_it_ends_with_1_and_one_line() {
    // The field's three arrays take half a gibibyte each, and there is one gibibyte of addresses.
    let limited = format!("ulimit -v 1048576; exec {} ft B --threads 2", env!("CARGO_BIN_EXE_npb"));
    let output = Command::new("sh").args(["-c", &limited]).output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(told, "npb: no memory for an array of 536870912 bytes: choose a smaller class or a machine with more\n");
}
