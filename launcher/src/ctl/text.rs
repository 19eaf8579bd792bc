//! How `vincs ctl` prints answers for people.

use std::fmt::Write;

use serde_json::Value;
use vincs_vmm::cluster::MemberState;

use super::protocol::{Migrated, Status};

/// The machine, and a line for each rank.
pub(super) fn status(status: &Status) -> String {
    let paused = if status.paused { ", paused" } else { "" };
    let transport = status.transport.as_ref().map(|name| format!(" over {name}")).unwrap_or_default();
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        text,
        "machine {}: {}\n{} virtual processors and {} MiB on {} ranks{transport}, for {} s{paused}",
        status.pid,
        status.command,
        status.vcpus.len(),
        status.memory >> 20,
        status.ranks.iter().filter(|rank| rank.state != MemberState::Left).count(),
        status.seconds
    );
    for rank in &status.ranks {
        let vcpus = if rank.vcpus.is_empty() { "none".to_owned() } else { numbers(&rank.vcpus) };
        let host = if rank.host.is_empty() { String::new() } else { format!(" on {}", rank.host) };
        let state = match rank.state {
            MemberState::Running => String::new(),
            MemberState::Joining => ", joining".to_owned(),
            MemberState::Leaving if rank.homes > 0 => format!(", leaving, home of {} pages", rank.homes),
            MemberState::Leaving => ", leaving".to_owned(),
            MemberState::Left => ", left".to_owned(),
        };
        let _ = writeln!(text, "rank {}{host}: {vcpus}{state}", rank.rank);
    }
    for vcpu in &status.vcpus {
        if let Some(to) = vcpu.moving_to {
            let _ = writeln!(text, "virtual processor {} is on its way from rank {} to {to}", vcpu.vcpu, vcpu.rank);
        }
    }
    text
}

/// Numbers in order as `0-3,7`.
pub(crate) fn numbers(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |&(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

/// What has become of a move.
pub(super) fn migrated(moved: &Migrated) -> String {
    let Migrated { vcpu, from, rank, microseconds } = moved;
    if from == rank {
        return format!("virtual processor {vcpu} was on rank {rank} already\n");
    }
    format!("virtual processor {vcpu} went from rank {from} to rank {rank} in {microseconds} us\n")
}

/// Every counter that is not zero, a line each, with its place in the JSON.
pub(super) fn stats(stats: &Value) -> String {
    let mut text = String::new();
    add(&mut text, "machine", &stats["machine"]);
    text
}

fn add(text: &mut String, name: &str, value: &Value) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(member, value)| add(text, &format!("{name}.{member}"), value));
        }
        Value::Number(number) if number.as_f64() != Some(0.0) => _ = writeln!(text, "{name} {number}"),
        // Lists are for programs; what they list is summed up elsewhere.
        Value::Number(_) | Value::Array(_) | Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::protocol::{RankStatus, VcpuStatus};
    use super::*;

    #[test]
    fn a_status_has_a_line_for_each_rank_and_each_move() {
        let rank = |rank, host: &str, vcpus: &[u32], state| RankStatus {
            rank,
            state,
            host: host.into(),
            vcpus: vcpus.into(),
            homes: 9 * u32::from(rank == 5),
        };
        let vcpu = |vcpu, rank, moving_to| VcpuStatus { vcpu, rank, moving_to };
        let one = Status {
            pid: 7,
            command: "make".into(),
            seconds: 12,
            paused: true,
            memory: 1 << 30,
            transport: Some("tcp".into()),
            ranks: vec![
                rank(0, "n0", &[0, 1, 2, 4], MemberState::Running),
                rank(1, "n1", &[], MemberState::Running),
                rank(2, "n2", &[], MemberState::Left),
                rank(3, "n0", &[3], MemberState::Leaving),
                rank(4, "", &[], MemberState::Joining),
                rank(5, "n5", &[], MemberState::Leaving),
            ],
            vcpus: vec![vcpu(0, 0, None), vcpu(1, 0, Some(1))],
        };
        let expected = "machine 7: make\n2 virtual processors and 1024 MiB on 5 ranks over tcp, for 12 s, paused\nrank 0 on n0: 0-2,4\nrank 1 on n1: none\nrank 2 on n2: none, left\nrank 3 on n0: 3, leaving\nrank 4: none, joining\nrank 5 on n5: none, leaving, home of 9 pages\nvirtual processor 1 is on its way from rank 0 to 1\n";
        assert_eq!(status(&one), expected);
    }

    #[test]
    fn counters_that_are_zero_are_left_out() {
        let counted = json!({"machine": {"memory": {"read": 3, "write": 0, "each": [1]}, "skew": 5}, "ranks": []});
        assert_eq!(stats(&counted), "machine.memory.read 3\nmachine.skew 5\n");
    }

    #[test]
    fn a_move_says_where_from() {
        let moved = |from| migrated(&Migrated { vcpu: 1, from, rank: 2, microseconds: 250 });
        assert_eq!(moved(0), "virtual processor 1 went from rank 0 to rank 2 in 250 us\n");
        assert_eq!(moved(2), "virtual processor 1 was on rank 2 already\n");
    }
}
