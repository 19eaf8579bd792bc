//! vincs itself, end to end: a stock Debian kernel in a testbed node. All cases run in one node (`boot/cases.sh` says
//! what each does); the tests here look at what they gave. Needs the kernel in the cache and the release binaries
//! (`make test` sees to both).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking, in its helpers too")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use vincs_testbed::Testbed;
use vincs_tests::cases::{Case, Cases, PATIENCE, assert_built};
use vincs_tests::workspace_root;

static CASES: LazyLock<Cases> = LazyLock::new(|| {
    compile_openmp_programs();
    Cases::run("boot", &Testbed { timeout: PATIENCE, ..Testbed::default() })
});

/// The programs of the tests of vincs-omp that run in the guest, and how many large arrays each has.
const OPENMP_PROGRAMS: [(&str, u64); 5] =
    [("parallel_for", 4), ("reduction", 2), ("critical", 1), ("tasks", 2), ("ordered", 3)];

/// Compiles them where `cases.sh` finds them, with the newest clang that has LLVM's OpenMP runtime beside it.
fn compile_openmp_programs() {
    let versions = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let llvm =
        versions.filter(|folder| folder.join("bin/clang").exists() && folder.join("lib/libomp.so").exists()).max();
    let clang = llvm.unwrap_or_else(|| panic!("no clang with libomp: make setup")).join("bin/clang");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openmp");
    fs::create_dir_all(&folder).unwrap();
    for (program, _) in OPENMP_PROGRAMS {
        let source = workspace_root().join("guest/omp/tests/programs").join(program).with_extension("c");
        let status =
            Command::new(&clang).args(["-O2", "-fopenmp", "-o"]).arg(folder.join(program)).arg(source).status();
        assert!(status.unwrap().success(), "{program}");
    }
}

fn case(name: &str, status: i32) -> Case {
    CASES.case(name, status)
}

/// The release of the stock kernel in the cache.
fn release() -> String {
    let image = vincs_testbed::fetch_kernel(&mut |_| ()).unwrap();
    let name = image.file_name().unwrap().to_string_lossy();
    name.strip_prefix("vmlinuz-").unwrap_or_else(|| panic!("{name} names no release")).to_owned()
}

#[test]
fn a_stock_kernel_boots_on_one_two_and_four_processors() {
    for vcpus in [1, 2] {
        let case = case(&format!("vcpus-{vcpus}"), 0);
        assert_eq!(case.stdout, format!("{vcpus}\n{}\n", release()));
        assert_eq!(case.stderr, "", "kernel messages stay off the command's streams");
    }
    assert_eq!(case("build", 0).stdout, format!("4\n{}\n", release()));
}

#[test]
fn statistics_tell_times_and_counters() {
    let stats = CASES.stats("2");
    assert_eq!((&stats["ending"], &stats["status"]), (&"exited".into(), &0.into()), "{stats}");
    let time = |name: &str| stats["times"][name].as_f64().unwrap_or_else(|| panic!("no time {name} in {stats}"));
    assert!(time("kernel_entry_to_command") > 0.0);
    assert!(time("kernel_entry_to_first_byte") >= time("kernel_entry_to_command"));
    let vcpus = stats["machine"]["vcpus"].as_array().unwrap();
    assert_eq!(vcpus.len(), 2);
    for vcpu in vcpus {
        assert!(["entries", "interrupts", "halts", "apic_registers"].iter().all(|name| vcpu[*name].as_u64() > Some(0)));
    }
}

#[test]
fn the_guest_sees_its_processors_nodes_devices_and_clock() {
    let case = case("topology", 0);
    assert_eq!(case.line("cpus"), "0-3");
    assert_eq!((case.line("node0"), case.line("node1")), ("0-1 10 20", "2-3 20 10"));
    let memory: Vec<u64> = ["memory0", "memory1"].iter().map(|node| case.line(node).parse().unwrap()).collect();
    // Half of 2 GiB each, in KiB, less what the kernel keeps.
    assert!(memory.iter().all(|kib| (900_000..=1 << 20).contains(kib)), "{memory:?}");
    for row in ["0,0,0,0", "1,1,0,0", "2,2,1,1", "3,3,1,1"] {
        assert!(case.stdout.contains(&format!("lscpu {row}\n")), "processor, core, package, node: {}", case.stdout);
    }
    assert_eq!(case.line("clock"), "tsc");
    assert!(case.stdout.contains("interrupts ttyS0\n") && case.stdout.contains("interrupts virtio\n"));
}

#[test]
fn the_command_runs_in_its_directory_with_its_environment_at_the_hosts_time() {
    let case = case("topology", 0);
    assert!(case.line("directory").starts_with("/var/tmp/work."));
    assert_eq!(case.line("environment"), "a value");
    assert_eq!(case.line("user"), "0", "the node's user");
    let seconds = |text: &str| text.trim().parse::<f64>().unwrap();
    let host = seconds(&String::from_utf8(case.bytes("host-date")).unwrap());
    let since = host - seconds(case.line("date"));
    assert!((0.0..60.0).contains(&since), "the guest's date is {since} s before the host's at the end of the run");
}

#[test]
fn the_guest_keeps_its_changes_to_itself_but_for_the_current_directory() {
    let case = case("topology", 0);
    assert!(case.stdout.contains("written in the guest\n"));
    assert!(!case.folder.join("overlay-leaked").exists());
    assert_eq!(case.bytes("kept-file"), b"kept\n");
}

#[test]
fn the_commands_end_is_vincss_end() {
    assert_eq!(case("status-3", 3).stderr, "");
    assert_eq!(case("killed", 128 + 9).stderr, "");
    let missing = case("not-found", 127);
    assert!(missing.message().starts_with("no-such-command: not found"), "{}", missing.stderr);
    assert_eq!(missing.stderr.lines().count(), 1);
    let refused = case("not-executable", 126);
    assert!(refused.message().starts_with("./not-executable: cannot be executed"), "{}", refused.stderr);
}

#[test]
fn streams_arrive_byte_for_byte_and_apart() {
    let apart = case("apart", 0);
    assert_eq!((apart.stdout.as_str(), apart.stderr.as_str()), ("one\0two", "three"));
    assert_eq!(case("through", 0).stdout, "same\n", "10 MB");
}

#[test]
fn a_reader_that_goes_away_ends_the_writer() {
    assert_eq!(case("reader-gone", 0).stdout, "y\ny\n");
}

#[test]
fn signals_and_the_terminal_reach_the_command() {
    assert_eq!(case("terminated", 42).stdout, "ready\ncaught\n");
    let terminal = case("terminal", 0).stdout.replace('\r', "");
    assert_eq!(terminal, "/dev/pts/0\n33 101\n/dev/pts/0\n");
}

#[test]
fn four_processors_build_what_a_native_build_makes() {
    assert_built(&case("build", 0));
}

#[test]
fn disks_are_durable_read_only_when_asked_and_locked() {
    assert!(case("disk", 0).bytes("sector").starts_with(b"durable\0"));
    let read_only = case("disk-ro", 1);
    assert_eq!(read_only.stdout, "1\n");
    assert_eq!(read_only.bytes("sector"), case("disk", 0).bytes("sector"), "unchanged");
    let locked = case("disk-locked", 2);
    assert!(locked.message().starts_with("disk disk is locked"), "{}", locked.stderr);
}

#[test]
fn a_read_only_share_can_be_read_and_not_written() {
    let case = case("share-ro", 2);
    assert_eq!(case.stdout, "seen\n");
    assert!(case.stderr.contains("Read-only file system"), "{}", case.stderr);
}

#[test]
fn relaxed_memory_is_a_device_and_not_the_kernels() {
    let case = case("relaxed", 0);
    assert_eq!((case.line("device"), case.line("owner")), ("/dev/dax0.0", "0 mode 600"));
    assert_eq!(case.line("size"), (128 << 20).to_string());
    let wrong: Vec<_> = case.stdout.lines().filter(|line| line.starts_with("wrong")).collect();
    assert_eq!(wrong, ["wrong 0"; 3], "of three processes");
    assert_eq!(case.line("direct"), "same", "as devices see it");
    // Of 512 MiB in KiB, less what the kernel keeps.
    let memory: u64 = case.line("memory").parse().unwrap();
    assert!((400_000..=512 << 10).contains(&memory), "{memory} KiB");
}

#[test]
fn a_team_works_on_relaxed_memory() {
    let case = case("relaxed", 0);
    let said = case.stdout.split_once("device 1\n").unwrap_or_else(|| panic!("no device: {}", case.stdout)).1;
    let said: Vec<_> = said.lines().collect();
    assert_eq!(said[0], format!("left {}", (128 << 20) - vincs_guest::CONTROL_BYTES));
    assert!(said.iter().any(|line| line.starts_with("too much 4 out of relaxed memory")), "{said:?}");
    for line in ["processors 0 1", "counted 2", "sum 333328333350000", "misuse 10 9 8"] {
        assert!(said.contains(&line), "{line}: {said:?}");
    }
}

#[test]
fn openmp_programs_work_on_relaxed_memory_as_they_are() {
    let case = case("openmp", 0);
    assert_eq!(case.stderr, "");
    for (program, arrays) in OPENMP_PROGRAMS {
        let line = |name: &str| case.line(&format!("{program} {name}"));
        let number = |name: &str| line(name).parse::<u64>().unwrap();
        assert_eq!((line("status"), line("device"), number("large_allocations")), ("0", "1", arrays), "{program}");
        assert!(number("acquires") > 0 && number("releases") > 0, "{program}: {}", case.stdout);
        // A thread on each processor, and the program's own.
        assert_eq!(number("implicit_tasks"), 2 * number("parallel_regions") + 1, "{program}");
    }
    let number = |line| case.line(line).parse::<u64>().unwrap();
    assert_eq!(number("critical mutexes_acquired"), 500 * 5 * 2);
    assert_eq!(number("reduction reduction_ends"), 4);
    assert!(number("tasks task_switches") >= 400 && number("ordered dependences") == 400);
}

#[test]
fn machines_that_end_by_themselves_are_told_from_each_other() {
    let panicked = case("panic", 121);
    assert_eq!(panicked.message(), "the guest kernel panicked");
    assert!(panicked.stderr.contains("sysrq triggered crash"), "with the console's last lines: {}", panicked.stderr);
    assert!(case("power-off", 124).message().contains("powered off"));
    assert!(case("reset", 124).message().contains("reset"));
}

#[test]
fn boots_that_fail_end_with_the_consoles_last_lines() {
    let panicked = case("boot-panic", 121);
    assert!(panicked.stderr.contains("Kernel panic"), "{}", panicked.stderr);
    let hung = case("boot-hang", 123);
    assert!(hung.message().starts_with("the guest did not start true within 25 s"), "{}", hung.stderr);
    assert!(hung.stderr.contains("Kernel panic"), "{}", hung.stderr);
}

#[test]
fn without_a_command_an_initramfs_or_a_disk_is_booted_to_the_console() {
    assert!(case("initrd", 0).stdout.contains("from the initramfs"));
    assert!(case("disk-boot", 0).stdout.contains("from the disk"));
}

#[test]
fn a_disk_that_is_booted_on_two_ranks_has_the_processors_of_both() {
    let said = case("disk-boot", 0).stdout;
    assert!(said.contains("processors 0-1") && said.contains("from the second"), "{said}");
    let stats = CASES.stats("disk");
    let second = &stats["ranks"][1]["vcpus"][0];
    assert!(second["vcpu"] == 1 && second["entries"].as_u64() > Some(0), "it has moved to its rank: {stats}");
}
