//! Every way in which ranks do not become a machine: one line on the stderr of one rank that names rank, host and cause, status 2 on
//! all, nothing on stdout, and nothing hangs. Ranks are started by hand; their traffic stays on loopback.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

mod absent;
mod ctl;
mod join;
mod lost;
mod stopped;
mod transport;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vincs_transport_tcp::auth::Authenticated;
use vincs_transport_tcp::secret::Secret;

/// More than any refusal takes here, with `--wireup-timeout` as below.
const LONG: Duration = Duration::from_secs(60);

/// Exit status of every rank of a machine that lost one.
const RANK_LOST: i32 = 120;

/// Within so much time every rank ends when some are killed or hang.
const END_TIME: Duration = Duration::from_secs(10);

/// `mov dx, 0x3f8; mov al, 'r'; out dx, al`, then `hlt` for ever: a machine that says that it runs and does nothing more.
const SAYS_R_AND_STAYS: [u8; 10] = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'r', 0xee, 0xf4, 0xeb, 0xfd];

/// Seconds for ranks that are to come: enough for slow ones.
const PATIENT: &str = "30";

/// Seconds for ranks that never come.
const IMPATIENT: &str = "1";

/// Variables by which launchers tell ranks; these tests may themselves run under one.
const LAUNCHERS: [&str; 8] = [
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "PMIX_RANK",
    "PMI_RANK",
    "PMI_SIZE",
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_ID",
];

/// The ranks' current directory, with an address file `a`, and a kernel that no machine is started with.
struct Place {
    dir: TempDir,
}

/// A rank that runs; ended on every way out.
struct Rank(Option<Child>);

impl Drop for Rank {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Rank {
    fn has_ended(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Its output once it has ended by itself.
    fn end(mut self) -> Output {
        let start = Instant::now();
        while !self.has_ended() {
            assert!(start.elapsed() < LONG, "the rank hangs");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.0.take().unwrap().wait_with_output().unwrap()
    }

    /// Has ended with status 2 and one line, which names all of `named`.
    fn refuses(self, named: &[&str]) {
        self.ends_with(2, named);
    }

    /// Has ended with this status and one line, which names all of `named`.
    fn ends_with(self, status: i32, named: &[&str]) {
        let output = self.end();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(status), 1), "{stderr}");
        assert!(stderr.starts_with("vincs: ") && output.stdout.is_empty(), "{stderr}");
        for name in named {
            assert!(stderr.contains(name), "{name} is not in: {stderr}");
        }
    }

    /// Has ended with status 2 and without a word, as rank 0 has said it.
    fn ends_silently(self) {
        let output = self.end();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.as_ref(), output.stdout.len()), (Some(2), "", 0));
    }
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&self, program: &Path, args: &[&str], variables: &[(&str, &str)]) -> Rank {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir.path()).env("VINCS_CACHE", self.path("cache")).env_remove("VINCS_LOG");
        LAUNCHERS.iter().for_each(|variable| _ = command.env_remove(variable));
        command.envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Rank(Some(command.spawn().unwrap()))
    }

    fn vincs(&self, args: &[&str], variables: &[(&str, &str)]) -> Rank {
        self.spawn(Path::new(env!("CARGO_BIN_EXE_vincs")), args, variables)
    }

    /// A rank of two, whose wire-up takes so many seconds at most.
    fn rank(&self, rank: &str, seconds: &str, args: &[&str]) -> Rank {
        self.rank_of("2", rank, "a", seconds, args)
    }

    /// A rank of so many, with this address file.
    fn rank_of(&self, ranks: &str, rank: &str, file: &str, seconds: &str, args: &[&str]) -> Rank {
        let own =
            ["--rank", rank, "--ranks", ranks, "--address-file", file, "--net-if", "lo", "--wireup-timeout", seconds];
        self.spawn(Path::new(env!("CARGO_BIN_EXE_vincs-rank")), &[&own, args].concat(), &[])
    }

    /// What rank 0 has written, once it has.
    fn card(&self) -> Card {
        let start = Instant::now();
        loop {
            if let Ok(text) = fs::read(self.path("a")) {
                return Card(serde_json::from_slice(&text).unwrap());
            }
            assert!(start.elapsed() < LONG, "no address file appears");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn write_private(&self, name: &str, text: &str) {
        use std::os::unix::fs::OpenOptionsExt;
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.path(name));
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// A rank 0 that can have a machine: what its options name is there.
    fn good_rank_0(&self, seconds: &str) -> Option<Rank> {
        self.has_machine().then(|| self.rank("0", seconds, &GOOD))
    }

    /// Sees to what a machine's options name; false where there is no KVM.
    fn has_machine(&self) -> bool {
        if !Path::new("/dev/kvm").exists() {
            eprintln!("skipped: without KVM rank 0 refuses by itself");
            return false;
        }
        fs::write(self.path("kernel"), kernel(&SHUTS_DOWN)).unwrap();
        fs::write(self.path("initrd"), b"").unwrap();
        true
    }
}

/// Options of a machine that could start.
const GOOD: [&str; 6] = ["--mem", "128M", "--kernel", "kernel", "--initrd", "initrd"];

/// A program whose first instruction shuts the processor down: it is undefined, and there is nobody to take the exception.
const SHUTS_DOWN: [u8; 2] = [0x0f, 0x0b];

/// The header of a 64-bit bzImage of release 1.2.3 (Linux Documentation/arch/x86/boot.rst), and this program.
fn kernel(program: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &(4096_u32 / 16 - 64).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes());
    put(0x20e, &0x180_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &[1]);
    put(0x380, b"1.2.3\0");
    // The kernel is behind two sectors, its 64-bit entry 0x200 into it.
    put(0x600, program);
    image
}

/// Rank 0's card.
struct Card(serde_json::Value);

impl Card {
    fn address(&self) -> SocketAddr {
        self.0["addresses"][0].as_str().unwrap().parse().unwrap()
    }

    fn secret(&self) -> Secret {
        Secret::from_hex(self.0["secret"].as_str().unwrap()).unwrap()
    }

    /// A connection that has proved to belong to the machine.
    fn enter(&self) -> Authenticated {
        Authenticated::connect(self.address(), &self.secret(), Instant::now() + LONG).unwrap()
    }
}

fn signal(rank: &Rank, signal: Signal) {
    kill_process(Pid::from_child(rank.0.as_ref().unwrap()), signal).unwrap();
}

/// This host's name, which messages have to have.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[test]
fn fewer_processors_than_ranks() {
    let place = Place::new();
    let args = ["--vcpus", "1", "--", "true"];
    let (zero, one) = (place.rank("0", PATIENT, &args), place.rank("1", PATIENT, &args));
    zero.refuses(&["vincs: rank 0 on", &host(), "--vcpus 1:", "2 ranks"]);
    one.ends_silently();
    assert!(!place.path("a").exists());
}

#[test]
fn numa_nodes_that_are_not_the_ranks() {
    let place = Place::new();
    let args = ["--numa", "1", "--", "true"];
    let (zero, one) = (place.rank("0", PATIENT, &args), place.rank("1", PATIENT, &args));
    zero.refuses(&["--numa 1:", "2 ranks"]);
    one.ends_silently();
}

#[test]
fn different_arguments() {
    let place = Place::new();
    let Some(zero) = place.good_rank_0(PATIENT) else { return };
    let one = place.rank("1", PATIENT, &[&GOOD[..2], &["--kernel", "other"], &GOOD[4..]].concat());
    zero.refuses(&["rank 1 on", &host(), "--kernel other", "rank 0 has --kernel kernel"]);
    one.ends_silently();
}

#[test]
fn a_rank_that_does_not_come() {
    let place = Place::new();
    let Some(zero) = place.good_rank_0(IMPATIENT) else { return };
    zero.refuses(&["rank 1 of 2", &host(), "within 1 s", "--wireup-timeout"]);
    assert!(!place.path("a").exists());
}

#[test]
fn a_rank_0_that_does_not_come() {
    let place = Place::new();
    place.rank("1", IMPATIENT, &["--", "true"]).refuses(&[
        "rank 1 on",
        &host(),
        "address file a:",
        "not there",
        "--wireup-timeout",
    ]);
}

#[test]
fn a_stale_address_file() {
    let place = Place::new();
    let Some(zero) = place.good_rank_0(PATIENT) else { return };
    let card = place.card().0;
    drop(zero);
    assert!(place.path("a").exists(), "a rank 0 that was killed leaves its file");
    let dead = card["addresses"][0].as_str().unwrap();
    place.rank("1", IMPATIENT, &GOOD).refuses(&["rank 1 on", &host(), "rank 0 on", dead, "refused"]);
    // A rank that waits long enough finds the next rank 0, which replaces the file.
    let one = place.rank("1", PATIENT, &["--vcpus", "3", "--", "true"]);
    let zero = place.good_rank_0(PATIENT).unwrap();
    zero.refuses(&["rank 1 on", "has --vcpus 3"]);
    one.ends_silently();
}

#[test]
fn an_address_file_that_cannot_be_written() {
    let place = Place::new();
    let Some(zero) = place.good_rank_0(IMPATIENT) else { return };
    drop(zero);
    let own = ["--rank", "0", "--ranks", "2", "--net-if", "lo"];
    let with = |file: &str| place.vincs(&[&["--address-file", file], &own[..], &GOOD].concat(), &[]);
    with("/no/such/dir/a").refuses(&["rank 0 on", &host(), "--address-file /no/such/dir/a"]);
    with("/dev/null").refuses(&["rank 0 on", &host(), "--address-file /dev/null"]);
}

#[test]
fn an_address_file_that_others_can_read() {
    let place = Place::new();
    fs::write(place.path("a"), "{}").unwrap();
    place.rank("1", IMPATIENT, &["--", "true"]).refuses(&["rank 1 on", &host(), "address file a:", "others"]);
    place.write_private("b", "{}");
    fs::rename(place.path("b"), place.path("a")).unwrap();
    place.rank("1", IMPATIENT, &["--", "true"]).refuses(&["rank 1 on", "address file a:", "not what a rank 0 writes"]);
}

#[test]
fn a_second_machine_with_the_same_address_file() {
    let place = Place::new();
    let Some(zero) = place.good_rank_0(PATIENT) else { return };
    let machine = place.card().0["machine"].clone();
    place.rank("0", PATIENT, &GOOD).refuses(&["rank 0 on", &host(), "--address-file a", "in use"]);
    assert_eq!(place.card().0["machine"], machine, "the first machine's file is untouched");
    let one = place.rank("1", PATIENT, &["--vcpus", "3", "--", "true"]);
    zero.refuses(&["rank 1 on", "has --vcpus 3"]);
    one.ends_silently();
}

#[test]
fn a_wrong_secret() {
    let place = Place::new();
    let Some(zero) = place.good_rank_0(PATIENT) else { return };
    let card = place.card().0;
    let other = "0123456789abcdef".repeat(4);
    place.write_private("b", &card.to_string().replace(card["secret"].as_str().unwrap(), &other));
    let args = ["--rank", "1", "--ranks", "2", "--address-file", "b", "--wireup-timeout", IMPATIENT, "--", "true"];
    place.vincs(&args, &[]).refuses(&["rank 1 on", &host(), "another secret"]);
    let one = place.rank("1", PATIENT, &["--vcpus", "3", "--", "true"]);
    zero.refuses(&["rank 1 on", "has --vcpus 3"]);
    one.ends_silently();
}

#[test]
fn strangers_at_the_door_change_nothing() {
    let place = Place::new();
    let Some(zero) = place.good_rank_0(PATIENT) else { return };
    let card = place.card();
    let mut silent = TcpStream::connect(card.address()).unwrap();
    TcpStream::connect(card.address()).unwrap().write_all(b"vincs\0t").unwrap();
    let mut web = TcpStream::connect(card.address()).unwrap();
    web.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut flood = TcpStream::connect(card.address()).unwrap();
    // The door may close before all of it is sent.
    let _ = flood.write_all(&vec![0xff; 1 << 20]);
    for stream in [&mut web, &mut flood] {
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut answer = Vec::new();
        // An end, or a reset as not all was read.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "a stranger is told nothing");
    }
    let one = place.rank("1", PATIENT, &["--vcpus", "3", "--", "true"]);
    zero.refuses(&["rank 1 on", "has --vcpus 3"]);
    one.ends_silently();
    silent.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(silent.read(&mut [0; 64]).unwrap_or(0), 0, "it goes with rank 0");
}

#[test]
fn a_rank_that_speaks_nonsense_counts_as_missing() {
    let place = Place::new();
    let Some(zero) = place.good_rank_0("3") else { return };
    let card = place.card();
    let deadline = Instant::now() + LONG;
    card.enter().write_frame(&[0xff; 32], deadline).unwrap();
    card.enter().write_frame(&[], deadline).unwrap();
    let mut oversized = card.enter().into_stream().unwrap();
    oversized.write_all(&u32::MAX.to_le_bytes()).unwrap();
    let mut truncated = card.enter().into_stream().unwrap();
    truncated.write_all(&100_u32.to_le_bytes()).unwrap();
    truncated.write_all(&[1; 10]).unwrap();
    drop(truncated);
    oversized.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(oversized.read(&mut [0; 64]).unwrap_or(0), 0, "it is shown out");
    zero.refuses(&["rank 1 of 2", "did not come"]);
}

/// The introduction of a rank; its form is the same for ever.
fn introduce(card: &Card, version: u32, rank: u32, ranks: u32, vincs: &str) -> Authenticated {
    let mut stream = card.enter();
    let introduction = postcard::to_allocvec(&(version, rank, ranks, "elsewhere", vincs)).unwrap();
    stream.write_frame(&introduction, Instant::now() + LONG).unwrap();
    stream
}

#[test]
fn a_rank_of_another_version() {
    let place = Place::new();
    let Some(zero) = place.good_rank_0(PATIENT) else { return };
    let _one = introduce(&place.card(), 99, 1, 2, env!("CARGO_PKG_VERSION"));
    zero.refuses(&["rank 1 on elsewhere", "version 99", "version 5"]);
    let zero = place.good_rank_0(PATIENT).unwrap();
    let _one = introduce(&place.card(), 99, 1, 2, "99.0.0");
    zero.refuses(&["rank 1 on elsewhere", "vincs 99.0.0", "use the same"]);
}

#[test]
fn a_rank_of_another_number_of_ranks() {
    let place = Place::new();
    let Some(zero) = place.good_rank_0(PATIENT) else { return };
    place.card();
    let own = ["--rank", "1", "--ranks", "3", "--address-file", "a", "--net-if", "lo", "--wireup-timeout", PATIENT];
    let one = place.vincs(&[&own[..], &GOOD].concat(), &[]);
    zero.refuses(&["rank 1 on", &host(), "one of 3 ranks", "one of 2"]);
    one.ends_silently();
}

#[test]
fn a_network_that_the_host_does_not_have() {
    let place = Place::new();
    let args = ["--rank", "0", "--ranks", "2", "--address-file", "a", "--net-if", "203.0.113.7"];
    let Some(other) = place.good_rank_0(IMPATIENT) else { return };
    drop(other);
    place.vincs(&[&args[..], &GOOD].concat(), &[]).refuses(&["--net-if 203.0.113.7", "lo 127.0.0.1"]);
    let zero = place.good_rank_0(PATIENT).unwrap();
    place.card();
    let args = ["--rank", "1", "--ranks", "2", "--address-file", "a", "--net-if", "nowhere0"];
    let one = place.vincs(&[&args[..], &["--wireup-timeout", PATIENT], &GOOD].concat(), &[]);
    zero.refuses(&["rank 1 on", &host(), "--net-if nowhere0"]);
    one.ends_silently();
}

#[test]
fn a_rank_environment_that_is_none() {
    let place = Place::new();
    let vincs = |variables: &[(&str, &str)]| place.vincs(&["--", "true"], variables);
    vincs(&[("OMPI_COMM_WORLD_RANK", "zero"), ("OMPI_COMM_WORLD_SIZE", "2")]).refuses(&["OMPI_COMM_WORLD_RANK=zero"]);
    vincs(&[("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_SIZE", "2")]).refuses(&["OMPI_COMM_WORLD_RANK=2"]);
    vincs(&[("PMIX_RANK", "1")]).refuses(&["PMIX_RANK=1", "SLURM_STEP_NUM_TASKS"]);
    vincs(&[("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "9999")]).refuses(&["SLURM_STEP_NUM_TASKS=9999"]);
    let rank = Path::new(env!("CARGO_BIN_EXE_vincs-rank"));
    place.spawn(rank, &["--", "true"], &[]).refuses(&["no rank environment", "mpirun"]);
    place.vincs(&["--rank", "1", "--", "true"], &[]).refuses(&["--ranks is missing"]);
}

#[test]
fn ranks_without_a_way_to_find_each_other() {
    let place = Place::new();
    if !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: without KVM rank 0 refuses by itself");
        return;
    }
    place.good_rank_0(IMPATIENT);
    let _ = fs::remove_file(place.path("a"));
    let slurm = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")];
    place.vincs(&GOOD, &slurm).refuses(&["rank 0 on", &host(), "Slurm", "--address-file"]);
    // A copy of the program has no helper beside it.
    let alone = place.path("vincs-alone");
    fs::copy(env!("CARGO_BIN_EXE_vincs"), &alone).unwrap();
    let mpi = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2"), ("PATH", "/nowhere")];
    place.spawn(&alone, &GOOD, &mpi).refuses(&["rank 0 on", &host(), "vincs-mpi", "--address-file"]);
    let one = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2"), ("PATH", "/nowhere")];
    place.spawn(&alone, &GOOD, &one).refuses(&["rank 1 on", &host(), "vincs-mpi"]);
}
