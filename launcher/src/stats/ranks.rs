//! Counters of several ranks, each by itself and added up.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vincs_vmm::machine::MachineStats;
use vincs_vmm::memory::engine::{EngineStats, HOTTEST};

use crate::stats::Counters;

/// What of a rank's counters is added up.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rank {
    vcpus: Vec<Value>,
    ranks: Dealings,
}

/// What a virtual processor has done on a rank, or on all.
#[derive(Debug, Deserialize, Serialize)]
struct Vcpu {
    /// Its number in the machine.
    vcpu: u32,
    #[serde(flatten)]
    counters: BTreeMap<String, u64>,
}

/// A rank's dealings with the others.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Dealings {
    memory: EngineStats,
    /// Counters of relaxed memory, in groups; nothing if the machine has none.
    relaxed: Value,
    control_sent: Vec<KindSent>,
    clock: Clock,
}

/// Control messages of a kind.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct KindSent {
    kind: String,
    messages: u64,
    bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Clock {
    worst_skew_nanoseconds: u64,
    uncertainty_nanoseconds: u64,
}

/// All ranks' counters added up.
#[derive(Debug, Default, Serialize)]
struct Sum {
    /// Of each virtual processor on all ranks it was on, in order.
    vcpus: Vec<Vcpu>,
    /// The same of all virtual processors together.
    all_vcpus: BTreeMap<String, u64>,
    /// Faults, messages and waits of the memory, and the hottest pages, [`HOTTEST`] of them.
    memory: EngineStats,
    /// Commands, faults and traffic of relaxed memory, if the machine has some.
    #[serde(skip_serializing_if = "Value::is_null")]
    relaxed: Value,
    /// Control messages by kind.
    control_sent: Vec<KindSent>,
    /// The worst skew of a rank's clock against rank 0's.
    worst_skew_nanoseconds: u64,
    /// By how much a measurement of it may be wrong.
    uncertainty_nanoseconds: u64,
}

/// The counters of rank 0 and what the others have told, each with its rank.
pub(crate) fn counters(zero: &MachineStats, others: &[(u16, Vec<u8>)]) -> Counters {
    let zero = serde_json::to_value(zero).unwrap_or_default();
    let told = others.iter().map(|(rank, told)| (*rank, serde_json::from_slice(told).unwrap_or_default()));
    let by_rank: BTreeMap<u16, Value> = std::iter::once((0, zero)).chain(told).collect();
    let last = by_rank.keys().next_back().copied().unwrap_or_default();
    let ranks: Vec<Value> = (0..=last).map(|rank| by_rank.get(&rank).cloned().unwrap_or_default()).collect();
    let machine = serde_json::to_value(sum(&ranks)).unwrap_or_default();
    Counters { machine, ranks }
}

/// How long the processors of each rank have waited for pages so far, of those that have told what they have counted.
pub(crate) fn waited(told: &[(u16, Vec<u8>)]) -> BTreeMap<u16, Duration> {
    let told = told.iter().filter_map(|(rank, told)| Some((*rank, serde_json::from_slice::<Rank>(told).ok()?)));
    told.map(|(rank, told)| (rank, told.ranks.memory.waited())).collect()
}

fn sum(ranks: &[Value]) -> Sum {
    let mut sum = Sum::default();
    let mut vcpus: BTreeMap<u32, BTreeMap<String, u64>> = BTreeMap::new();
    for rank in ranks.iter().filter_map(|rank| Rank::deserialize(rank).ok()) {
        let Dealings { memory, relaxed, control_sent, clock } = rank.ranks;
        for Vcpu { vcpu, counters } in rank.vcpus.iter().filter_map(|vcpu| Vcpu::deserialize(vcpu).ok()) {
            add_counters(&mut sum.all_vcpus, &counters);
            add_counters(vcpus.entry(vcpu).or_default(), &counters);
        }
        sum.memory.add(&memory);
        add_values(&mut sum.relaxed, relaxed);
        add(&mut sum.control_sent, control_sent);
        sum.worst_skew_nanoseconds = sum.worst_skew_nanoseconds.max(clock.worst_skew_nanoseconds);
        sum.uncertainty_nanoseconds = sum.uncertainty_nanoseconds.max(clock.uncertainty_nanoseconds);
    }
    sum.memory.hottest.truncate(HOTTEST);
    sum.vcpus = vcpus.into_iter().map(|(vcpu, counters)| Vcpu { vcpu, counters }).collect();
    sum
}

/// Adds numbers to those of the same names, in all groups.
fn add_values(sum: &mut Value, more: Value) {
    match (sum, more) {
        (Value::Object(sum), Value::Object(more)) => {
            for (name, value) in more {
                add_values(sum.entry(name).or_insert(Value::Null), value);
            }
        }
        (sum @ Value::Number(_), Value::Number(more)) => {
            let (known, more) = (sum.as_u64().unwrap_or_default(), more.as_u64().unwrap_or_default());
            *sum = known.saturating_add(more).into();
        }
        (sum @ Value::Null, more) => *sum = more,
        (
            _,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_),
        ) => {}
    }
}

fn add_counters(sum: &mut BTreeMap<String, u64>, counters: &BTreeMap<String, u64>) {
    for (name, count) in counters {
        let known = sum.entry(name.clone()).or_default();
        *known = known.saturating_add(*count);
    }
}

fn add(sum: &mut Vec<KindSent>, more: Vec<KindSent>) {
    for sent in more {
        match sum.iter_mut().find(|known| known.kind == sent.kind) {
            Some(known) => {
                known.messages = known.messages.saturating_add(sent.messages);
                known.bytes = known.bytes.saturating_add(sent.bytes);
            }
            None => sum.push(sent),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rank(vcpus: &[(u32, u64)], faults: u64, interrupts: u64, skew: u64) -> Value {
        let mut memory = EngineStats::default();
        memory.protocol.read_faults = faults;
        (0..faults).for_each(|_| memory.read_faults.record(Duration::from_micros(10)));
        let control_sent = [json!({"kind": "interrupt", "messages": interrupts, "bytes": 7 * interrupts})];
        let clock = json!({"worst_skew_nanoseconds": skew, "uncertainty_nanoseconds": 3});
        let vcpus: Vec<_> =
            vcpus.iter().map(|(vcpu, forwarded)| json!({"vcpu": vcpu, "forwarded": forwarded})).collect();
        let relaxed = json!({"rings": faults, "traffic": {"gets": interrupts}});
        json!({"vcpus": vcpus, "ranks": {"memory": memory, "relaxed": relaxed, "control_sent": control_sent, "clock": clock}})
    }

    #[test]
    fn ranks_are_added_up() {
        // The second processor has moved from the first rank to the second.
        let sum = sum(&[rank(&[(0, 4), (1, 2)], 2, 5, 0), rank(&[(1, 1)], 3, 4, 90), Value::Null]);
        let expected = json!([{"vcpu": 0, "forwarded": 4}, {"vcpu": 1, "forwarded": 3}]);
        assert_eq!(serde_json::to_value(&sum.vcpus).unwrap(), expected);
        assert_eq!(sum.all_vcpus, [("forwarded".into(), 7)].into());
        assert_eq!((sum.memory.protocol.read_faults, sum.memory.read_faults.count()), (5, 5));
        assert_eq!(sum.relaxed, json!({"rings": 5, "traffic": {"gets": 9}}));
        assert_eq!(sum.control_sent, [KindSent { kind: "interrupt".into(), messages: 9, bytes: 63 }]);
        assert_eq!((sum.worst_skew_nanoseconds, sum.uncertainty_nanoseconds), (90, 3));
    }

    #[test]
    fn the_hottest_pages_are_those_of_the_sum() {
        let of_rank = |pages: [u32; 11]| {
            let faults = |page| if page == 5 { 99 } else { 100 };
            let hot = pages.map(|page| json!({"page": page, "faults": faults(page), "over": 2, "threads": []}));
            let mut rank = rank(&[], 0, 0, 0);
            rank["ranks"]["memory"]["hottest"] = hot.to_vec().into();
            rank
        };
        let zero = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 5];
        let hottest =
            sum(&[of_rank(zero), of_rank(zero.map(|page| if page == 5 { 5 } else { page + 10 }))]).memory.hottest;
        assert_eq!(hottest.len(), HOTTEST);
        assert_eq!((hottest[0].page, hottest[0].faults, hottest[0].over, hottest[1].faults), (5, 198, 4, 100));
    }

    #[test]
    fn what_ranks_have_waited_is_known_of_those_that_tell() {
        let told = |faults| serde_json::to_vec(&rank(&[], faults, 0, 0)).unwrap();
        let waited = waited(&[(1, told(3)), (2, b"no JSON".to_vec()), (4, told(0))]);
        assert_eq!(waited.keys().copied().collect::<Vec<_>>(), [1, 4]);
        assert!((29..=31).contains(&waited[&1].as_micros()), "to two digits: {waited:?}");
        assert_eq!(waited[&4], Duration::ZERO);
    }

    #[test]
    fn every_rank_keeps_its_place_and_one_that_told_nothing_is_null() {
        let zero = MachineStats { vcpus: Vec::new(), ranks: None };
        let told = serde_json::to_vec(&rank(&[(2, 2)], 1, 1, 1)).unwrap();
        let counters = counters(&zero, &[(2, told), (3, b"no JSON".to_vec())]);
        assert_eq!(counters.ranks.len(), 4);
        assert_eq!((&counters.ranks[1], &counters.ranks[3]), (&Value::Null, &Value::Null));
        assert_eq!(counters.ranks[2]["vcpus"][0]["forwarded"], 2);
        assert_eq!(counters.machine["memory"]["protocol"]["read_faults"], 1);
    }
}
