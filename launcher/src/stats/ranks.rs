//! Counters of several ranks, each by itself and added up.

use serde_json::{Map, Value};
use vincs_vmm::machine::MachineStats;

use crate::stats::Counters;

/// The counters of rank 0 and what the others have told, each with its rank.
pub(crate) fn counters(zero: &MachineStats, others: &[(u16, Vec<u8>)]) -> Counters {
    let mut ranks = vec![serde_json::to_value(zero).unwrap_or_default()];
    for (rank, told) in others {
        let place = usize::from(*rank);
        if ranks.len() <= place {
            ranks.resize(place + 1, Value::Null);
        }
        if let Some(value) = ranks.get_mut(place) {
            *value = serde_json::from_slice(told).unwrap_or_default();
        }
    }
    let machine = ranks.iter().fold(Value::Null, |sum, rank| add(sum, rank.clone()));
    Counters { machine, ranks }
}

/// Two ranks' counters added up: numbers as they are, objects member by member, lists (of virtual processors) one after the other.
/// What cannot be added stays the first's.
fn add(sum: Value, more: Value) -> Value {
    match (sum, more) {
        (Value::Null, more) => more,
        (Value::Number(one), Value::Number(other)) => added(&one, &other),
        (Value::Array(mut list), Value::Array(more)) => {
            list.extend(more);
            Value::Array(list)
        }
        (Value::Object(object), Value::Object(more)) => Value::Object(add_members(object, more)),
        (sum @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)), _) => sum,
    }
}

fn add_members(mut object: Map<String, Value>, more: Map<String, Value>) -> Map<String, Value> {
    for (key, value) in more {
        let sum = object.remove(&key).unwrap_or_default();
        object.insert(key, add(sum, value));
    }
    object
}

fn added(one: &serde_json::Number, other: &serde_json::Number) -> Value {
    match (one.as_u64(), other.as_u64(), one.as_f64(), other.as_f64()) {
        (Some(one), Some(other), _, _) => one.saturating_add(other).into(),
        (_, _, Some(one), Some(other)) => (one + other).into(),
        _ => Value::Null,
    }
}
