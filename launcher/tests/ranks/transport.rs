//! What is said of the transport where ranks have no RDMA device. Those that have one are in a testbed node (`tests/tests/cluster`).

use super::*;

/// Whether this host has RDMA devices.
fn has_devices() -> bool {
    fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some())
}

impl Place {
    /// Two ranks whose machine ends at once if it starts, with these options; nothing where that cannot be, or there are devices.
    fn two_ranks(&self, options: &[&str]) -> Option<[Rank; 2]> {
        if has_devices() {
            eprintln!("skipped: this host has RDMA devices");
        }
        let options = [options, &GOOD].concat();
        (!has_devices() && self.has_machine()).then(|| ["0", "1"].map(|rank| self.rank(rank, PATIENT, &options)))
    }
}

/// Exit status when a virtual processor shuts down, as the only one here does at once.
const TRIPLE_FAULT: i32 = 122;

#[test]
fn rdma_without_devices_is_refused() {
    let place = Place::new();
    let Some([zero, one]) = place.two_ranks(&["--transport", "rdma"]) else { return };
    zero.refuses(&["--transport rdma: rank 0 on", &host(), "RDMA", "--transport tcp"]);
    one.ends_silently();
}

#[test]
fn auto_without_devices_is_tcp_and_says_so_when_asked_for() {
    let place = Place::new();
    let Some([zero, one]) = place.two_ranks(&["--transport", "auto", "--stats", "stats"]) else { return };
    let output = zero.end();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(output.status.code(), Some(TRIPLE_FAULT), "{stderr}");
    let said = lines.iter().filter(|line| line.contains("connected by TCP, not by RDMA")).collect::<Vec<_>>();
    assert!(said.len() == 1 && said[0].contains(&format!("rank 0 on {}", host())), "{stderr}");
    assert_eq!(one.end().status.code(), Some(TRIPLE_FAULT));
    let stats: serde_json::Value = serde_json::from_slice(&fs::read(place.path("stats")).unwrap()).unwrap();
    assert_eq!(stats["config"]["transport"], "tcp");
}

#[test]
fn nothing_is_said_of_rdma_by_default_or_where_it_is_not_wanted() {
    for options in [&[][..], &["--transport", "tcp"]] {
        let place = Place::new();
        let Some([zero, one]) = place.two_ranks(options) else { return };
        zero.ends_with(TRIPLE_FAULT, &["virtual processor 0"]);
        assert_eq!(one.end().status.code(), Some(TRIPLE_FAULT));
    }
}
