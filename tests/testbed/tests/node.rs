//! Boots nodes and looks at what comes out of them. Needs the kernel in the cache (`make kernel`).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vincs_testbed::{End, Testbed};

/// Enough for a boot on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(180);

/// A node of little memory, so that several may run beside each other.
fn testbed() -> Testbed {
    Testbed { memory: 1 << 30, timeout: PATIENCE, ..Testbed::default() }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    command.args(["--mem", "1G", "--timeout", "180"]);
    command
}

/// The part of `text` between the line `[name]` and the next such line; nothing when there is no such line.
fn section<'a>(text: &'a str, name: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("[{name}]\n")).unwrap_or_default();
    rest.split("\n[").next().unwrap_or_default().trim()
}

#[test]
fn a_node_has_what_a_cluster_node_has_and_passes_everything_through() {
    let outside = tempfile::tempdir().unwrap();
    let mark = outside.path().join("written-in-the-node");
    let script = format!(
        "echo '[kvm]'; test -c /dev/kvm && cat /sys/module/kvm_amd/parameters/npt
         echo '[rdma]'; rdma link show rxe0/1
         echo '[lock]'; ulimit -l
         echo '[name]'; getent hosts node0
         echo '[dir]'; pwd
         echo '[processors]'; nproc
         echo '[clock]'; cat /sys/devices/system/clocksource/clocksource0/current_clocksource
         echo '[shm]'; echo shared >/dev/shm/x && cat /dev/shm/x
         echo '[net]'; ip link add v0 type veth peer name v1 && ip tuntap add t0 mode tap && echo made
         echo '[overlay]'; echo inside >'{0}' && cat '{0}'
         echo to standard error >&2
         sleep 1000 &
         exit 3",
        mark.display()
    );
    let output = testbed().run(&script).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.end, End::Exited(3), "{text}\n{}", output.console_tail);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "to standard error\n");
    assert!(["1", "Y"].contains(&section(&text, "kvm")), "{text}");
    assert!(section(&text, "rdma").contains("state ACTIVE"), "{text}");
    assert_eq!(section(&text, "lock"), "unlimited");
    assert!(section(&text, "name").starts_with("10.0.2.15"), "{text}");
    assert_eq!(Path::new(section(&text, "dir")), std::env::current_dir().unwrap());
    assert_eq!(section(&text, "processors"), vincs_testbed::DEFAULT_CPUS.to_string());
    assert_eq!(section(&text, "clock"), "tsc");
    assert_eq!(section(&text, "shm"), "shared");
    assert_eq!(section(&text, "net"), "made");
    assert_eq!(section(&text, "overlay"), "inside");
    assert!(!mark.exists(), "what a node writes stays in the node");
    assert!(output.boot.is_some());
}

#[test]
fn two_hosts_see_each_other_and_run_commands_for_each_other() {
    let script = "
        echo '[names]'; hostname; on node1 hostname
        echo '[addresses]'; getent hosts node0 node1; on node1 getent hosts node0
        echo '[status]'; on node1 'echo apart >&2; exit 7'; echo $?; on node1 kill -9 '$$'; echo $?; on node7 true; echo $?
        echo '[input]'; echo in | on node1 cat
        echo '[clocks]'; for node in node0 node1; do on $node cat /proc/sys/kernel/random/boot_id; done | sort -u | wc -l
        echo '[rdma]'; rdma link show rxe1/1; on node1 rdma link show rxe1/1
        echo '[jumbo]'; /run/testbed/bin/ping -c 1 -s 8900 node1 | grep -c '^8908 bytes from'
        echo '[mpirun]'; mpirun -n 2 --host node0,node1 hostname | sort
        echo '[cut]'; ip link set eth1 down; on node1 echo there
        echo '[off]'; timeout 2 on node1 'echo b >/proc/sysrq-trigger'; echo gone";
    let output = Testbed { hosts: 2, ..testbed() }.run(script).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.end, End::Exited(0), "{text}\n{errors}\n{}", output.console_tail);
    assert_eq!(section(&text, "names"), "node0\nnode1");
    let addresses: Vec<&str> = section(&text, "addresses").split_whitespace().collect();
    assert_eq!(addresses, ["10.0.3.1", "node0", "10.0.3.2", "node1", "10.0.3.1", "node0"]);
    assert_eq!(section(&text, "status"), "7\n137\n255");
    assert_eq!(errors, "apart\ntestbed: node7 is no node of this run: /etc/hosts has their names\n");
    assert_eq!(section(&text, "input"), "in");
    assert_eq!(section(&text, "clocks"), "2", "two kernels");
    let links = section(&text, "rdma").lines().filter(|link| link.contains("state ACTIVE") && link.contains("eth1"));
    assert_eq!(links.count(), 2, "{text}");
    assert_eq!(section(&text, "jumbo"), "1");
    assert_eq!(section(&text, "mpirun"), "node0\nnode1");
    assert_eq!(section(&text, "cut"), "there");
    assert_eq!(section(&text, "off"), "gone", "a host that is powered off does not end the run");
}

#[test]
fn bytes_go_in_and_out_unchanged() {
    // Every byte value, and no period that a buffer's size divides.
    let bytes: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
    let mut child = program()
        .args(["run", "--stdin", "--", "sh", "-c", "tee /dev/stderr"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == bytes, "standard output differs: {} bytes of {}", output.stdout.len(), bytes.len());
    assert!(output.stderr == bytes, "standard error differs: {} bytes of {}", output.stderr.len(), bytes.len());
}

#[test]
fn a_command_that_is_not_found_is_127_and_a_killed_one_128_and_the_signal() {
    let script = "sh -c 'kill -9 $$'; echo $?; exec no-such-program";
    let output = testbed().run(script).unwrap();
    assert_eq!(output.end, End::Exited(127));
    assert_eq!(output.stdout, b"137\n");
}

#[test]
fn the_time_limit_ends_a_run() {
    let began = Instant::now();
    let output = Testbed { timeout: Duration::from_secs(1), ..testbed() }.run("sleep 1000").unwrap();
    assert_eq!(output.end, End::TimedOut);
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_node_that_ends_before_its_command_is_lost() {
    let output = testbed().run("echo going; sleep 1; echo c >/proc/sysrq-trigger; sleep 1000").unwrap();
    assert!(matches!(&output.end, End::NodeLost(why) if why.contains("kernel stopped")), "{:?}", output.end);
    assert_eq!(output.stdout, b"going\n");
    assert!(output.console_tail.contains("Kernel panic"), "{}", output.console_tail);
}

#[test]
fn a_host_that_does_not_get_to_its_command_ends_the_run_of_all() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let qemu = dir.path().join("qemu-system-x86_64");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    // The second one alone fails: the file of its console has its name.
    let text = "#!/bin/sh\ncase $* in *console.node1*) echo 'no room' >&2; exit 1 ;; esac\nexec sleep 1000\n";
    std::fs::write(&qemu, text).unwrap();
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = program().args(["--hosts", "2", "run", "--sh", "true"]).env("PATH", &path).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.starts_with("testbed: node1: QEMU ended (exit status: 1): no room"), "{errors}");
    assert!(errors.contains("[node0]") && errors.contains("[node1]"), "each one's console: {errors}");
}

#[test]
fn a_node_that_hangs_on_its_way_up_is_told_with_where_it_was() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let qemu = dir.path().join("qemu-system-x86_64");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let text = "#!/bin/sh\nfor word; do case $word in file,id=console,path=*) echo 'testbed: mounting file systems' >\"${word#*path=}\" ;; esac; done\nexec sleep 1000\n";
    std::fs::write(&qemu, text).unwrap();
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
    let began = Instant::now();
    let output = program().args(["run", "--sh", "true"]).env("PATH", &path).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{errors}");
    assert!(errors.starts_with("testbed: node0 did not come up within 90 s; last: mounting file systems"), "{errors}");
    assert!(began.elapsed() >= vincs_testbed::BOOT_TIME);
}

#[test]
fn termination_ends_qemu_and_leaves_no_file() {
    let temp = tempfile::tempdir().unwrap();
    let mut child =
        program().args(["run", "--sh", "sleep 1000"]).env("TMPDIR", temp.path()).stderr(Stdio::null()).spawn().unwrap();
    let qemu = wait_for_qemu(child.id());
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!Path::new(&format!("/proc/{qemu}")).exists(), "QEMU outlived its parent");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn qemu_dies_with_a_killed_testbed() {
    // A killed program tidies nothing up: its files are gone with this folder.
    let temp = tempfile::tempdir().unwrap();
    let mut child =
        program().args(["run", "--sh", "sleep 1000"]).env("TMPDIR", temp.path()).stderr(Stdio::null()).spawn().unwrap();
    let qemu = wait_for_qemu(child.id());
    let limit = Instant::now() + PATIENCE;
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = || match std::fs::read_to_string(format!("/proc/{qemu}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    while !gone() {
        assert!(Instant::now() < limit, "QEMU outlived its killed parent");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn without_a_kernel_the_message_names_the_fix() {
    let cache = tempfile::tempdir().unwrap();
    let output = program().args(["run", "--sh", "true"]).env("VINCS_CACHE", cache.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message =
        format!("testbed: no kernel in {}: run 'make kernel', or 'testbed fetch-kernel'\n", cache.path().display());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), message);
}

#[test]
fn a_qemu_without_svm_and_one_that_fails_are_told_with_its_own_words() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let qemu = dir.path().join("qemu-system-x86_64");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let cases = [
        (
            "TCG doesn't support requested features",
            2,
            "testbed: this QEMU cannot emulate AMD's SVM: install qemu-system-x86",
        ),
        ("cannot set up guest memory", 125, "testbed: node0: QEMU ended (exit status: 1): cannot set up guest memory"),
    ];
    for (message, status, told) in cases {
        std::fs::write(&qemu, format!("#!/bin/sh\necho \"{message}\" >&2\nexit 1\n")).unwrap();
        std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = program().args(["run", "--sh", "true"]).env("PATH", &path).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{errors}");
        assert!(errors.starts_with(told), "{errors}");
    }
}

#[test]
fn more_memory_than_there_is_is_refused() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_testbed")).args(["--mem", "1024T", "run", "--sh", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("give a smaller --mem"));
}

/// Waits until the child of a testbed is QEMU: before, it is a copy of the testbed itself.
fn wait_for_qemu(testbed: u32) -> u32 {
    let limit = Instant::now() + PATIENCE;
    loop {
        for child in children(testbed) {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if name.starts_with("qemu-system") {
                return child;
            }
        }
        assert!(Instant::now() < limit, "QEMU was not started");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Child processes of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}
