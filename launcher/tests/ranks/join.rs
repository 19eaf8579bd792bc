//! Ranks that join a machine that runs, and leave it: what is said and shown meanwhile, what is refused, and what becomes of the machine when one is killed on its way.

use serde_json::Value;

use super::*;

/// A machine of two ranks and four processors.
pub(super) struct Machine {
    pub(super) place: Place,
    ranks: Vec<Rank>,
}

impl Machine {
    /// One that runs, with these options more; nothing where there can be none.
    pub(super) fn start(options: &[&str]) -> Option<Self> {
        let place = Place::new();
        if !place.has_machine() {
            return None;
        }
        fs::write(place.path("kernel"), kernel(&SAYS_R_AND_STAYS)).unwrap();
        let mut machine = Self { place, ranks: Vec::new() };
        for rank in ["0", "1"] {
            let own = ["--rank", rank, "--ranks", "2", "--address-file", "a", "--net-if", "lo", "--vcpus", "4"];
            machine.ranks.push(machine.rank(&[&own[..], &GOOD, options].concat()));
        }
        machine.wait_for(|status| status["ranks"][1]["vcpus"] == serde_json::json!([2, 3]));
        Some(machine)
    }

    fn rank(&self, args: &[&str]) -> Rank {
        let runtime = self.place.dir.path().to_str().unwrap();
        self.place.spawn(Path::new(env!("CARGO_BIN_EXE_vincs-rank")), args, &[("XDG_RUNTIME_DIR", runtime)])
    }

    /// A rank that is to join.
    fn join(&self) -> Rank {
        self.rank(&["--join", "a", "--net-if", "lo"])
    }

    /// A rank that has joined, as this one.
    pub(super) fn joined(&self, rank: usize) -> Rank {
        let joins = self.join();
        self.wait_for(|status| status["ranks"][rank]["state"] == "running");
        joins
    }

    pub(super) fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vincs"));
        command.args(["ctl"]).args(args).env("XDG_RUNTIME_DIR", self.place.dir.path()).output().unwrap()
    }

    pub(super) fn status(&self) -> Value {
        serde_json::from_slice(&self.ctl(&["--json", "status"]).stdout).unwrap_or(Value::Null)
    }

    /// How many ranks there are or were.
    fn members(&self) -> usize {
        self.status()["ranks"].as_array().unwrap().len()
    }

    fn state(&self, rank: usize) -> Value {
        self.status()["ranks"][rank]["state"].clone()
    }

    /// The line with which an order is refused.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{args:?}: {line}");
        line
    }

    /// Waits until the machine is like that.
    fn wait_for(&self, is_so: impl Fn(&Value) -> bool) {
        let start = Instant::now();
        loop {
            let output = self.ctl(&["--json", "status"]);
            let status = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
            let rests =
                status["vcpus"].as_array().is_some_and(|all| all.iter().all(|vcpu| vcpu["moving_to"].is_null()));
            if rests && is_so(&status) {
                return;
            }
            assert!(start.elapsed() < LONG, "{status}{}", String::from_utf8_lossy(&output.stderr));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the machine, which has gone on until now: all its ranks, and these, end with its status and without a word.
    pub(super) fn stop(mut self, joined: Vec<Rank>) {
        assert!(self.ranks.iter_mut().all(|rank| !rank.has_ended()), "the machine has gone on");
        assert!(self.ctl(&["stop"]).status.success());
        self.ends(joined);
    }

    /// It has been told to stop: all its ranks, and these, end with its status and without a word.
    pub(super) fn ends(&mut self, joined: Vec<Rank>) {
        for rank in self.ranks.drain(..) {
            let output = rank.end();
            assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(143), ""));
        }
        for rank in joined {
            assert_eq!(rank.end().status.code(), Some(143));
        }
        assert!(!self.place.path("a").exists(), "the address file goes with the machine");
    }
}

/// The vCPUs that a rank has.
fn vcpus(status: &Value, rank: usize) -> usize {
    status["ranks"][rank]["vcpus"].as_array().map_or(0, Vec::len)
}

/// Has left well, and said so.
fn has_left(rank: Rank, number: u16) {
    let output = rank.end();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.first(), Some(&format!("vincs: rank {number} has joined the machine").as_str()), "{stderr}");
    assert_eq!(lines.last(), Some(&format!("vincs: rank {number} has left the machine").as_str()), "{stderr}");
}

#[test]
fn ranks_join_and_leave_one_after_the_other() {
    let Some(machine) = Machine::start(&[]) else { return };
    let two = machine.joined(2);
    machine.wait_for(|status| vcpus(status, 2) == 1);
    let three = machine.joined(3);
    machine.wait_for(|status| (0..4).all(|rank| vcpus(status, rank) == 1));
    assert!(machine.ctl(&["remove", "2"]).status.success());
    has_left(two, 2);
    machine.wait_for(|status| status["ranks"][2]["state"] == "left" && vcpus(status, 2) == 0);
    let text = String::from_utf8(machine.ctl(&["status"]).stdout).unwrap();
    assert!(
        text.contains(" on 3 ranks over tcp") && text.contains(&format!("rank 2 on {}: none, left\n", host())),
        "{text}"
    );

    // Twice: the second does no harm.
    signal(&three, Signal::TERM);
    signal(&three, Signal::TERM);
    has_left(three, 3);
    machine.wait_for(|status| vcpus(status, 0) + vcpus(status, 1) == 4);
    for rank in ["2", "3"] {
        assert!(machine.refused(&["migrate", "0", rank]).contains("leaving, or has left"));
        assert!(machine.refused(&["remove", rank]).contains("has left already"));
    }
    assert!(machine.refused(&["remove", "0"]).contains("rank 0 has the machine's devices"));
    assert!(machine.refused(&["remove", "4"]).contains("no rank 4"));
    assert!(machine.refused(&["migrate", "0", "9"]).contains("no rank 9"));

    let four = machine.joined(4);
    assert!(machine.ctl(&["migrate", "0", "4"]).status.success());
    machine.stop(vec![four]);
}

/// Pages that a rank is the home of.
fn homes(status: &Value, rank: usize) -> u64 {
    status["ranks"][rank]["homes"].as_u64().unwrap_or(0)
}

/// A rank that has started the machine has left, and said so.
fn founder_has_left(rank: Rank, number: u16) {
    let output = rank.end();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    // What is quick is said when it is done alone.
    assert!(lines.iter().all(|line| line.starts_with(&format!("vincs: rank {number} "))), "{stderr}");
    assert_eq!(lines.last(), Some(&format!("vincs: rank {number} has left the machine").as_str()), "{stderr}");
}

/// A rank that has joined becomes the home of its share, and takes over what the rank has that started the machine with rank 0. So does one
/// that joins when that is gone.
#[test]
fn a_rank_that_started_the_machine_leaves_by_order() {
    let Some(mut machine) = Machine::start(&["--shards", "2"]) else { return };
    let all = 128 << 20 >> 12;
    machine.wait_for(|status| homes(status, 0) + homes(status, 1) == all);
    let two = machine.joined(2);
    machine.wait_for(|status| homes(status, 2) > all / 3 - 129 && homes(status, 2) <= all / 3 + 1);
    // TERM does nothing there: launchers send it to all ranks.
    signal(&machine.ranks[1], Signal::TERM);
    assert!(machine.ctl(&["remove", "1"]).status.success());
    founder_has_left(machine.ranks.pop().unwrap(), 1);
    machine.wait_for(|status| status["ranks"][1]["state"] == "left" && homes(status, 1) == 0);
    machine.wait_for(|status| homes(status, 0) + homes(status, 2) == all && homes(status, 2) >= all / 2 - 129);
    let three = machine.joined(3);
    machine.wait_for(|status| homes(status, 3) > all / 3 - 129 && vcpus(status, 3) == 1);
    signal(&two, Signal::TERM);
    has_left(two, 2);
    machine.stop(vec![three]);
}

#[test]
fn a_rank_that_started_the_machine_leaves_on_term_with_a_grace_period() {
    let Some(mut machine) = Machine::start(&["--grace", "1"]) else { return };
    signal(&machine.ranks[1], Signal::TERM);
    founder_has_left(machine.ranks.pop().unwrap(), 1);
    machine.wait_for(|status| status["ranks"][1]["state"] == "left" && vcpus(status, 0) == 4);
    let two = machine.joined(2);
    machine.stop(vec![two]);
}

/// Whenever that is: the machine goes on, or ends with one line that names the rank.
#[test]
fn a_rank_that_is_killed_while_it_hands_its_pages_over_ends_the_machine() {
    for milliseconds in [0, 30, 80] {
        let Some(mut machine) = Machine::start(&["--grace", "1"]) else { return };
        let one = machine.ranks.pop().unwrap();
        // While it is stopped nothing is handed over.
        signal(&one, Signal::STOP);
        let removing = std::thread::scope(|scope| {
            let asked = scope.spawn(|| machine.ctl(&["remove", "1"]));
            std::thread::sleep(Duration::from_millis(100));
            signal(&one, Signal::CONT);
            std::thread::sleep(Duration::from_millis(milliseconds));
            drop(one);
            asked.join().unwrap()
        });
        let zero = machine.ranks.pop().unwrap();
        if removing.status.success() {
            assert!(machine.ctl(&["stop"]).status.success());
            assert_eq!(zero.end().status.code(), Some(143));
        } else {
            zero.end().check(RANK_LOST, &["rank 1 on", &host(), "is lost"]);
        }
    }
}

#[test]
fn several_ranks_come_at_once() {
    let Some(machine) = Machine::start(&["--shards", "2"]) else { return };
    let joined: Vec<Rank> = (0..3).map(|_| machine.join()).collect();
    machine.wait_for(|status| (2..5).all(|rank| status["ranks"][rank]["state"] == "running"));
    machine.wait_for(|status| (0..5).all(|rank| vcpus(status, rank) <= 1));
    for rank in &joined {
        signal(rank, Signal::TERM);
    }
    machine.wait_for(|status| (2..5).all(|rank| status["ranks"][rank]["state"] == "left"));
    for rank in joined {
        assert_eq!(rank.end().status.code(), Some(0));
    }
    machine.stop(Vec::new());
}

#[test]
fn a_rank_joins_by_host_and_port_with_the_secret_of_a_file() {
    let Some(machine) = Machine::start(&["--placement", "manual"]) else { return };
    let card = machine.place.card();
    let port = format!("localhost:{}", card.address().port());
    // What addresses the file has does not matter.
    machine.place.write_private("b", &card.0.to_string().replace(&card.address().to_string(), "127.0.0.1:1"));
    machine.rank(&["--join", &port]).refuses(&["--join localhost", "--address-file"]);
    let two = machine.rank(&["--join", &port, "--address-file", "b", "--net-if", "lo"]);
    machine.wait_for(|status| status["ranks"][2]["state"] == "running");
    machine.wait_for(|status| vcpus(status, 2) == 0);
    signal(&two, Signal::INT);
    has_left(two, 2);
    machine.stop(Vec::new());
}

#[test]
fn who_may_not_join_changes_nothing() {
    let Some(machine) = Machine::start(&[]) else { return };
    let card = machine.place.card();
    let text = card.0.to_string();
    machine.place.write_private("b", &text.replace(card.0["secret"].as_str().unwrap(), &"0123456789abcdef".repeat(4)));
    machine.rank(&["--join", "b"]).refuses(&["--join b", "another secret"]);
    machine.rank(&["--join", "no/such"]).refuses(&["--join no/such", "not there"]);
    machine.rank(&["--join", "a", "--net-if", "nowhere0"]).refuses(&["--net-if nowhere0"]);
    machine.rank(&["--join", "a", "--", "true"]).refuses(&["--join", "cannot be used with"]);
    machine.rank(&["--join", "a", "--vcpus", "2"]).refuses(&["--join", "--vcpus", "cannot be used with"]);
    machine.rank(&["--join", "a", "--grace", "0"]).refuses(&["--grace", "0"]);
    let own = ["--rank", "1", "--ranks", "2", "--address-file", "a", "--net-if", "lo"];
    machine.rank(&[&own[..], &GOOD].concat()).refuses(&["rank 1 on", "the machine is complete"]);
    for (version, vincs, named) in [(99, env!("CARGO_PKG_VERSION"), "version 99"), (99, "99.0.0", "vincs 99.0.0")] {
        let mut stream = introduce(&card, version, u32::MAX, u32::MAX, vincs);
        let refused = stream.read_frame(4096, Instant::now() + LONG).unwrap();
        let (kind, line, _): (u8, String, bool) = postcard::from_bytes(&refused).unwrap();
        assert!(kind == 0 && line.contains(named), "{line}");
    }
    machine.wait_for(|status| status["ranks"].as_array().unwrap().len() == 2);
    let two = machine.joined(2);
    machine.stop(vec![two]);
}

#[test]
fn a_machine_that_is_gone_cannot_be_joined() {
    let Some(machine) = Machine::start(&[]) else { return };
    let card = machine.place.card().0.to_string();
    machine.place.write_private("b", &card);
    let place = Place::new();
    fs::copy(machine.place.path("b"), place.path("b")).unwrap();
    machine.stop(Vec::new());
    let rank = Path::new(env!("CARGO_BIN_EXE_vincs-rank"));
    // A copy of the file, as one that a rank 0 which was killed has left.
    place.spawn(rank, &["--join", "b"], &[]).refuses(&["--join b", &host(), "cannot be reached", "has ended"]);
}

#[test]
fn a_rank_that_is_killed_while_it_joins_is_not_missed() {
    let Some(machine) = Machine::start(&["--placement", "manual"]) else { return };
    for milliseconds in [0, 5, 10, 20, 30, 50, 80, 120, 200, 400] {
        let rank = machine.join();
        std::thread::sleep(Duration::from_millis(milliseconds));
        // Dropped, it is killed.
        drop(rank);
    }
    // And once it has a seat, but takes no part yet: it cannot while a rank that it has to meet is stopped.
    let all_have_left = |status: &Value| {
        let ranks = status["ranks"].as_array().unwrap();
        ranks.len() > 2 && ranks.iter().skip(2).all(|rank| rank["state"] == "left")
    };
    machine.wait_for(all_have_left);
    let before = machine.members();
    signal(&machine.ranks[1], Signal::STOP);
    let rank = machine.join();
    machine.wait_for(|status| status["ranks"].as_array().unwrap().len() > before);
    let state = machine.state(before);
    drop(rank);
    signal(&machine.ranks[1], Signal::CONT);
    assert_eq!(state, "joining");
    machine.wait_for(all_have_left);
    let next = machine.join();
    machine.wait_for(|status| status["ranks"].as_array().unwrap().last().unwrap()["state"] == "running");
    machine.stop(vec![next]);
}

#[test]
fn a_rank_that_has_had_no_processor_may_be_killed() {
    let Some(machine) = Machine::start(&["--placement", "manual"]) else { return };
    let two = machine.joined(2);
    drop(two);
    machine.wait_for(|status| status["ranks"][2]["state"] == "left");
    let three = machine.joined(3);
    assert!(machine.ctl(&["migrate", "3", "3"]).status.success());
    signal(&three, Signal::TERM);
    has_left(three, 3);
    machine.stop(Vec::new());
}

#[test]
fn a_rank_that_is_killed_with_a_processor_ends_the_machine_with_one_line() {
    let Some(mut machine) = Machine::start(&[]) else { return };
    let two = machine.joined(2);
    machine.wait_for(|status| vcpus(status, 2) == 1);
    drop(two);
    let one = machine.ranks.pop().unwrap();
    machine.ranks.pop().unwrap().end().check(RANK_LOST, &["rank 2 on", &host(), "is lost"]);
    let output = one.end();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(RANK_LOST), ""));
}

/// Whenever that is: the machine goes on, or ends with one line that names the rank.
#[test]
fn a_rank_that_is_killed_while_it_leaves_is_missed_or_not() {
    let mut ends = Vec::new();
    // At once it has its processor still; the last is killed when it has left.
    for milliseconds in [Some(0), Some(60), Some(150), Some(250), None] {
        let Some(mut machine) = Machine::start(&[]) else { return };
        let two = machine.joined(2);
        machine.wait_for(|status| vcpus(status, 2) == 1);
        signal(&two, Signal::TERM);
        match milliseconds {
            Some(milliseconds) => std::thread::sleep(Duration::from_millis(milliseconds)),
            None => machine.wait_for(|status| status["ranks"][2]["state"] == "left"),
        }
        drop(two);
        let start = Instant::now();
        // It says 5 s after a rank has become silent at the latest that it is lost.
        let has_ended = loop {
            let left = machine.ctl(&["--json", "status"]);
            let status = serde_json::from_slice(&left.stdout).unwrap_or(Value::Null);
            if status["ranks"][2]["state"] == "left" {
                break false;
            }
            if machine.ranks.iter_mut().all(Rank::has_ended) {
                break true;
            }
            assert!(start.elapsed() < LONG, "{status}");
            std::thread::sleep(Duration::from_millis(20));
        };
        ends.push(has_ended);
        if has_ended {
            let one = machine.ranks.pop().unwrap();
            machine.ranks.pop().unwrap().end().check(RANK_LOST, &["rank 2 on", &host(), "is lost"]);
            assert_eq!(one.end().status.code(), Some(RANK_LOST));
        } else {
            machine.stop(Vec::new());
        }
    }
    assert!(ends.first() == Some(&true) && ends.last() == Some(&false), "{ends:?}");
}

/// What a rank that has ended must have said.
trait Said {
    /// This status, what the guest has written, and one line with all of these.
    fn check(&self, status: i32, named: &[&str]);
}

impl Said for Output {
    fn check(&self, status: i32, named: &[&str]) {
        let stderr = String::from_utf8_lossy(&self.stderr);
        assert_eq!((self.status.code(), stderr.lines().count()), (Some(status), 1), "{stderr}");
        assert!(named.iter().all(|name| stderr.contains(name)), "{stderr}");
    }
}
