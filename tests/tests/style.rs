//! House rules that no compiler checks, over every tracked file. Each check is a function from a file to what is wrong with it,
//! and has a test with a planted fault.

use std::process::Command;

use vincs_tests::workspace_root;

/// Most lines of a source file: one subject that fits in the head.
const MAX_LINES: usize = 700;

/// A tracked text file.
struct File {
    path: String,
    text: String,
}

impl File {
    fn is(&self, extensions: &[&str]) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension))
    }

    /// The fault with its place.
    fn at(&self, line: usize, fault: &str) -> String {
        format!("{}:{line}: {fault}", self.path)
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }
}

type Check = fn(&File) -> Vec<String>;

const CHECKS: &[Check] = &[crate_lints, length, unfinished, lint_reasons, machine_paths, whitespace];

/// Every crate takes the workspace's lints.
fn crate_lints(file: &File) -> Vec<String> {
    if !file.path.ends_with("Cargo.toml") || !file.text.contains("[package]") {
        return Vec::new();
    }
    let inherits = file.text.contains("[lints]\nworkspace = true\n");
    if inherits { Vec::new() } else { vec![file.at(1, "no `[lints] workspace = true`")] }
}

fn length(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    if lines <= MAX_LINES || !file.is(&["rs", "sh", "c"]) {
        return Vec::new();
    }
    vec![file.at(MAX_LINES, &format!("{lines} lines, at most {MAX_LINES}: split it by subject"))]
}

/// Marks of unfinished work belong in the issue tracker.
fn unfinished(file: &File) -> Vec<String> {
    // In two parts, so that this file passes its own check.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let marked = |line: &str| line.split(|c| !is_word(c)).any(|word| marks.contains(&word));
    let lines = file.numbered().filter(|(_, line)| marked(line));
    lines.map(|(number, _)| file.at(number, "a mark of unfinished work")).collect()
}

/// A lint that is turned off says why.
fn lint_reasons(file: &File) -> Vec<String> {
    if !file.is(&["rs"]) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for attribute in [concat!("[", "allow("), concat!("[", "expect(")] {
        for (start, _) in file.text.match_indices(attribute) {
            let before = &file.text[..start];
            let is_attribute = before.ends_with('#') || before.ends_with("#!");
            let body = file.text[start..].split(']').next().unwrap_or_default();
            if is_attribute && !body.contains("reason =") {
                found.push(file.at(before.lines().count().max(1), "a lint is turned off without `reason = \"…\"`"));
            }
        }
    }
    found
}

/// Paths of one person's machine mean nothing on another.
fn machine_paths(file: &File) -> Vec<String> {
    let paths = [concat!("/wo", "rk/"), concat!("/tmp/", "wt"), concat!("/root", "/.")];
    let lines = file.numbered().filter(|(_, line)| paths.iter().any(|path| line.contains(path)));
    lines.map(|(number, _)| file.at(number, "a path that is only on one machine")).collect()
}

fn whitespace(file: &File) -> Vec<String> {
    let trailing = file.numbered().filter(|(_, line)| line.ends_with([' ', '\t', '\r']));
    let mut found: Vec<_> = trailing.map(|(number, _)| file.at(number, "white space at the end")).collect();
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        found.push(file.at(file.text.lines().count(), "no newline at the end"));
    }
    found
}

/// External crates of the workspace that have no row in the table of dependencies.
fn undocumented_dependencies(manifest: &str, table: &str) -> Vec<String> {
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section.lines().filter(|line| !line.starts_with([' ', '#'])).filter_map(|line| line.split_once(" = "));
    let external = names.filter(|(_, value)| !value.contains("path = ")).map(|(name, _)| name);
    external.filter(|name| !documented(table, name)).map(str::to_owned).collect()
}

/// Whether a row of the table begins with a cell that names the crate.
fn documented(table: &str, name: &str) -> bool {
    let cells = table.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    cells.flat_map(|cell| cell.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_')).any(|word| word == name)
}

/// Everything git tracks or would track, as text; nothing when git fails. What is not text has no style.
fn files() -> Vec<File> {
    let root = workspace_root();
    let list = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let paths = list.split_terminator('\0').filter(|path| *path != "Cargo.lock");
    let read =
        |path: &str| std::fs::read_to_string(root.join(path)).ok().map(|text| File { path: path.to_owned(), text });
    paths.filter_map(read).collect()
}

#[test]
fn every_file_follows_the_house_rules() {
    let files = files();
    assert!(files.iter().any(|file| file.path == "Cargo.toml"), "the files were not read");
    let found: Vec<String> = files.iter().flat_map(|file| CHECKS.iter().flat_map(|check| check(file))).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_dependency_has_its_reason_written_down() {
    let read = |path| std::fs::read_to_string(workspace_root().join(path)).unwrap();
    let missing = undocumented_dependencies(&read("Cargo.toml"), &read("docs/dependencies.md"));
    assert_eq!(missing, [""; 0], "no row in docs/dependencies.md");
}

fn faults(check: Check, path: &str, text: &str) -> usize {
    check(&File { path: path.to_owned(), text: text.to_owned() }).len()
}

#[test]
fn a_crate_without_the_lints_is_found() {
    assert_eq!(faults(crate_lints, "a/Cargo.toml", "[package]\nname = \"a\"\n"), 1);
    assert_eq!(faults(crate_lints, "a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n"), 0);
    assert_eq!(faults(crate_lints, "Cargo.toml", "[workspace]\n"), 0);
}

#[test]
fn a_long_file_is_found() {
    assert_eq!(faults(length, "a.rs", &"x\n".repeat(MAX_LINES)), 0);
    assert_eq!(faults(length, "a.rs", &"x\n".repeat(MAX_LINES + 1)), 1);
    assert_eq!(faults(length, "a.md", &"x\n".repeat(MAX_LINES + 1)), 0);
}

#[test]
fn unfinished_work_is_found() {
    assert_eq!(faults(unfinished, "a.rs", concat!("// TO", "DO: more\n")), 1);
    assert_eq!(faults(unfinished, "a.sh", concat!("# FIX", "ME\n")), 1);
    assert_eq!(faults(unfinished, "a.sh", concat!("mktemp a.XX", "XXXX\n")), 0);
}

#[test]
fn a_lint_turned_off_without_a_reason_is_found() {
    assert_eq!(faults(lint_reasons, "a.rs", concat!("#", "[allow(dead_code)]\n")), 1);
    assert_eq!(faults(lint_reasons, "a.rs", concat!("#!", "[expect(clippy::panic)]\n")), 1);
    assert_eq!(
        faults(lint_reasons, "a.rs", concat!("#", "[allow(\n    dead_code,\n    reason = \"because\"\n)]\n")),
        0
    );
}

#[test]
fn a_machine_path_is_found() {
    assert_eq!(faults(machine_paths, "a.md", concat!("see /wo", "rk/main\n")), 1);
    assert_eq!(faults(machine_paths, "a.md", concat!("see /tmp/", "wt/x\n")), 1);
    assert_eq!(faults(machine_paths, "a.md", "see /dev/kvm and the folder work/\n"), 0);
}

#[test]
fn stray_white_space_is_found() {
    assert_eq!(faults(whitespace, "a.rs", "fn a() {} \n"), 1);
    assert_eq!(faults(whitespace, "a.rs", "fn a() {}"), 1);
    assert_eq!(faults(whitespace, "a.rs", "fn a() {}\n"), 0);
}

#[test]
fn a_dependency_without_a_reason_is_found() {
    let manifest = "[workspace.dependencies]\nours = { path = \"ours\" }\nlibc = \"0.2\"\nserde = { version = \"1\", features = [\n    \"derive\",\n] }\n\n[profile.dev]\npanic = \"abort\"\n";
    assert_eq!(undocumented_dependencies(manifest, "| `libc` | why |\n"), ["serde"]);
    assert_eq!(undocumented_dependencies(manifest, "| libc, serde | why |\n"), [""; 0]);
    assert_eq!(undocumented_dependencies(manifest, "libc and serde are fine\n"), ["libc", "serde"]);
}
