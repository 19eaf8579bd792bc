//! What a machine tells at one moment, and what has changed between two.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;
use vincs_vmm::cluster::MemberState;

use super::super::protocol::Status;

/// A machine at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) status: Status,
    pub(super) counted: Counted,
}

/// What of a machine's statistics is shown. What it does not tell is zero.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Counted {
    /// By rank; nothing of one that told nothing in time.
    ranks: Vec<Option<Rank>>,
    /// The hottest first.
    pub(super) hottest_pages: Vec<HotPage>,
}

/// A page with many faults.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(super) struct HotPage {
    pub(super) page: u64,
    /// Since the machine started.
    pub(super) faults: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Rank {
    ranks: Dealings,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Dealings {
    memory: Memory,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Memory {
    read_faults: Latencies,
    write_faults: Latencies,
    upgrade_faults: Latencies,
    sent: BTreeMap<String, Count>,
    received: BTreeMap<String, Count>,
}

/// How often each time was seen, in nanoseconds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Latencies {
    times: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Count {
    bytes: u64,
}

impl Counted {
    /// What `vincs ctl --json stats` says.
    pub(super) fn new(stats: Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(stats)
    }

    fn memory(&self, rank: u16) -> Memory {
        let of_rank = self.ranks.get(usize::from(rank)).and_then(Option::as_ref);
        of_rank.map(|rank| rank.ranks.memory.clone()).unwrap_or_default()
    }
}

/// What a rank did between two samples.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Rates {
    /// Faults a second: reads, writes, upgrades.
    pub(super) faults: [u64; 3],
    /// The median of all of these faults, in nanoseconds; nothing without any.
    pub(super) median: Option<u64>,
    /// 99 of 100 took no longer, in nanoseconds.
    pub(super) p99: Option<u64>,
    /// Bytes of pages and their messages a second, in and out.
    pub(super) traffic: [u64; 2],
}

/// What a rank did since the sample before. Since its start when that sample, of nothing or of another machine, counted more.
pub(super) fn rates(before: &Sample, now: &Sample, rank: u16) -> Rates {
    let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(f64::MIN_POSITIVE);
    let per_second = |count: u64| whole(count as f64 / seconds);
    let (old, new) = (before.counted.memory(rank), now.counted.memory(rank));
    let mut all: BTreeMap<u64, u64> = BTreeMap::new();
    let kinds = [
        (&old.read_faults, &new.read_faults),
        (&old.write_faults, &new.write_faults),
        (&old.upgrade_faults, &new.upgrade_faults),
    ];
    let faults = kinds.map(|(old, new)| {
        let more = difference(old, new);
        for (time, count) in &more {
            let known = all.entry(*time).or_default();
            *known = known.saturating_add(*count);
        }
        per_second(more.values().copied().fold(0, u64::saturating_add))
    });
    let bytes =
        |traffic: &BTreeMap<String, Count>| traffic.values().map(|count| count.bytes).fold(0, u64::saturating_add);
    let traffic = [(&old.received, &new.received), (&old.sent, &new.sent)];
    let traffic = traffic.map(|(old, new)| per_second(bytes(new).saturating_sub(bytes(old))));
    Rates { faults, median: quantile(&all, 1, 2), p99: quantile(&all, 99, 100), traffic }
}

/// How often each time was seen since.
fn difference(old: &Latencies, new: &Latencies) -> BTreeMap<u64, u64> {
    let old: BTreeMap<u64, u64> = old.times.iter().copied().collect();
    let more = |&(time, count): &(u64, u64)| (time, count.saturating_sub(old.get(&time).copied().unwrap_or_default()));
    new.times.iter().map(more).filter(|(_, count)| *count > 0).collect()
}

/// The least time that `part` of `whole` of all are not above.
fn quantile(times: &BTreeMap<u64, u64>, part: u128, whole: u128) -> Option<u64> {
    let total: u128 = times.values().map(|count| u128::from(*count)).sum();
    let mut seen = 0;
    times.iter().find_map(|(time, count)| {
        seen += u128::from(*count);
        (seen * whole >= total * part).then_some(*time)
    })
}

/// A rate as a whole number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is not negative, and one beyond all counters is the last of them"
)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

/// What has happened to the machine between two samples, in words.
pub(super) fn events(before: &Status, now: &Status) -> Vec<String> {
    let mut events = Vec::new();
    match (before.paused, now.paused) {
        (false, true) => events.push("paused".to_owned()),
        (true, false) => events.push("goes on".to_owned()),
        (true, true) | (false, false) => {}
    }
    let state = |status: &Status, rank: u16| {
        // One that is not there yet, or no more, is as one that has left.
        let known = status.ranks.iter().find(|known| known.rank == rank);
        known.map_or(MemberState::Left, |known| known.state)
    };
    let gone = before.ranks.iter().filter(|rank| now.ranks.iter().all(|known| known.rank != rank.rank));
    for rank in now.ranks.iter().chain(gone) {
        let (was, is) = (state(before, rank.rank), state(now, rank.rank));
        if was == is {
            continue;
        }
        let what = match is {
            MemberState::Joining => "is joining",
            MemberState::Running => "has joined",
            MemberState::Leaving => "is leaving",
            MemberState::Left => "has left",
        };
        events.push(format!("rank {} on {} {what}", rank.rank, rank.host));
    }
    for vcpu in &now.vcpus {
        let was = before.vcpus.iter().find(|was| was.vcpu == vcpu.vcpu);
        if let Some(was) = was.filter(|was| was.rank != vcpu.rank) {
            events.push(format!("vCPU {} went from rank {} to {}", vcpu.vcpu, was.rank, vcpu.rank));
        }
    }
    events
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::super::protocol::{RankStatus, VcpuStatus};
    use super::*;

    /// A machine with these ranks' vCPUs.
    pub(in super::super) fn status(ranks: &[&[u32]], paused: bool) -> Status {
        let rank = |(rank, vcpus): (u16, &&[u32])| {
            let (state, host) = (MemberState::Running, format!("n{rank}"));
            RankStatus { rank, state, host, vcpus: vcpus.to_vec(), homes: 0 }
        };
        let ranks: Vec<RankStatus> = (0..).zip(ranks).map(rank).collect();
        let vcpus = |rank: &RankStatus| {
            let place = |vcpu: &u32| VcpuStatus { vcpu: *vcpu, rank: rank.rank, moving_to: None };
            rank.vcpus.iter().map(place).collect::<Vec<_>>()
        };
        Status {
            pid: 7,
            command: "make -j8".into(),
            seconds: 75,
            paused,
            memory: 1 << 30,
            transport: Some("tcp".into()),
            vcpus: ranks.iter().flat_map(vcpus).collect(),
            ranks,
        }
    }

    /// A rank that has had so many faults of each kind, each of so many nanoseconds, and sent so many bytes.
    pub(in super::super) fn rank(faults: [u64; 3], time: u64, bytes: u64) -> Value {
        let [read, write, upgrade] = faults.map(|count| json!({"count": count, "times": [[time, count]]}));
        let memory = json!({"read_faults": read, "write_faults": write, "upgrade_faults": upgrade,
            "sent": {"grant": {"messages": 1, "bytes": bytes}}, "received": {"acquire": {"bytes": bytes / 2}}});
        json!({"vcpus": [], "ranks": {"memory": memory}})
    }

    pub(in super::super) fn sample(at: Instant, status: Status, stats: Value) -> Sample {
        Sample { at, status, counted: Counted::new(stats).unwrap() }
    }

    #[test]
    fn rates_are_of_the_time_between_two_samples() {
        let start = Instant::now();
        let one = json!({"ranks": [rank([100, 0, 0], 1000, 1000), null]});
        let mut more = rank([100, 0, 0], 1000, 5000);
        more["ranks"]["memory"]["write_faults"]["times"] = json!([[2000, 98], [9000, 2]]);
        let other = json!({"ranks": [more, rank([1, 0, 0], 5, 0)]});
        let before = sample(start, status(&[&[0], &[1]], false), one);
        let now = sample(start + Duration::from_secs(2), status(&[&[0], &[1]], false), other);
        let expected = Rates { faults: [0, 50, 0], median: Some(2000), p99: Some(9000), traffic: [1000, 2000] };
        assert_eq!(rates(&before, &now, 0), expected);
        assert_eq!(rates(&before, &now, 1).median, Some(5), "it told nothing before");
        assert_eq!(rates(&now, &now, 0), Rates::default());
        assert_eq!(rates(&now, &before, 0).faults, [0, 0, 0], "counters that went back are no rate");
        assert_eq!(rates(&before, &now, 9), Rates::default(), "no such rank");
    }

    #[test]
    fn a_machine_of_one_rank_tells_of_none() {
        let counted = Counted::new(json!({"machine": {"all_vcpus": {"entries": 5}}})).unwrap();
        assert!(counted.ranks.is_empty() && counted.hottest_pages.is_empty());
    }

    #[test]
    fn what_happens_is_told() {
        let before = status(&[&[0, 1], &[2]], false);
        assert_eq!(events(&before, &before), [""; 0]);
        let joined = status(&[&[0], &[2], &[1]], true);
        assert_eq!(events(&before, &joined), ["paused", "rank 2 on n2 has joined", "vCPU 1 went from rank 0 to 2"]);
        let left = ["goes on", "rank 2 on n2 has left", "vCPU 1 went from rank 2 to 0"];
        assert_eq!(events(&joined, &before), left);
        let in_state = |state| {
            let mut status = joined.clone();
            status.ranks[2].state = state;
            status
        };
        let [joining, leaving, gone] = [MemberState::Joining, MemberState::Leaving, MemberState::Left].map(in_state);
        assert_eq!(events(&joining, &joined), ["rank 2 on n2 has joined"]);
        assert_eq!(events(&joined, &leaving), ["rank 2 on n2 is leaving"]);
        assert_eq!(events(&leaving, &gone), ["rank 2 on n2 has left"]);
        assert_eq!(events(&gone, &joining), ["rank 2 on n2 is joining"]);
    }
}
