//! The pages that ranks take from each other most, and the instructions that ran into them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vincs_vmm::memory::engine::{EngineStats, HOTTEST};

use crate::stats::symbols::Symbols;

/// Most instructions named of a page.
const INSTRUCTIONS: usize = 5;

/// A page with many faults.
#[derive(Debug, Eq, PartialEq, Serialize)]
pub(crate) struct HottestPage {
    /// Its place in guest memory, in pages of 4 KiB.
    pub(crate) page: u32,
    /// Its faults on all ranks.
    pub(crate) faults: u64,
    /// What ran into it, of a sample of all faults, most often first.
    pub(crate) instructions: Vec<Instruction>,
}

/// An instruction that ran into a page.
#[derive(Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Instruction {
    /// Its address in the guest, as 0x and hexadecimal digits.
    pub(crate) pointer: String,
    /// The kernel's function that it is in, with `--system-map`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) function: Option<String>,
    /// How often it was seen.
    pub(crate) samples: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rank {
    ranks: Dealings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Dealings {
    memory: EngineStats,
    sampled_faults: Vec<Sampled>,
}

#[derive(Debug, Deserialize)]
struct Sampled {
    page: u32,
    instruction_pointer: u64,
    samples: u64,
}

/// The hottest pages of all ranks together, from what each has counted.
pub(crate) fn pages(ranks: &[Value], symbols: Option<&Symbols>) -> Vec<HottestPage> {
    let mut memory = EngineStats::default();
    let mut samples: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for rank in ranks.iter().filter_map(|rank| Rank::deserialize(rank).ok()) {
        memory.add(&rank.ranks.memory);
        for sampled in rank.ranks.sampled_faults {
            let seen = samples.entry((sampled.page, sampled.instruction_pointer)).or_default();
            *seen = seen.saturating_add(sampled.samples);
        }
    }
    let page = |page: u32, faults| {
        let mut seen: Vec<(u64, u64)> =
            samples.range((page, 0)..=(page, u64::MAX)).map(|((_, pointer), samples)| (*samples, *pointer)).collect();
        seen.sort_unstable_by(|one, other| other.cmp(one));
        seen.truncate(INSTRUCTIONS);
        let instruction = |(samples, pointer)| Instruction {
            pointer: format!("{pointer:#x}"),
            function: symbols.and_then(|symbols| symbols.function(pointer)).map(str::to_owned),
            samples,
        };
        HottestPage { page, faults, instructions: seen.into_iter().map(instruction).collect() }
    };
    memory.hottest.iter().take(HOTTEST).map(|hot| page(hot.page, hot.faults)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::stats::symbols::tests::symbols;

    fn rank(hot: &[(u32, u64)], sampled: &[(u32, u64, u64)]) -> Value {
        let hot: Vec<Value> = hot
            .iter()
            .map(|(page, faults)| json!({"page": page, "faults": faults, "over": 0, "threads": []}))
            .collect();
        let mut memory = serde_json::to_value(EngineStats::default()).unwrap();
        memory["hottest"] = hot.into();
        let sampled: Vec<Value> = sampled
            .iter()
            .map(|(page, pointer, samples)| json!({"page": page, "instruction_pointer": pointer, "samples": samples}))
            .collect();
        json!({"vcpus": [], "ranks": {"memory": memory, "sampled_faults": sampled}})
    }

    #[test]
    fn pages_and_instructions_of_all_ranks_are_added_up_and_named() {
        let text = 0xffff_ffff_8100_0010;
        let ranks = [
            rank(&[(7, 10), (9, 100)], &[(7, text, 2), (7, 0x1000, 3)]),
            rank(&[(7, 200)], &[(7, text, 4), (8, text, 99)]),
            Value::Null,
        ];
        let pages = pages(&ranks, Some(&symbols()));
        assert_eq!(pages.iter().map(|page| (page.page, page.faults)).collect::<Vec<_>>(), [(7, 210), (9, 100)]);
        let instruction = |pointer: &str, function: Option<&str>, samples| Instruction {
            pointer: pointer.into(),
            function: function.map(Into::into),
            samples,
        };
        let expected = [instruction("0xffffffff81000010", Some("_text"), 6), instruction("0x1000", None, 3)];
        assert_eq!(pages[0].instructions, expected);
        assert!(pages[1].instructions.is_empty());
    }

    #[test]
    fn a_page_has_its_most_frequent_instructions_only() {
        let sampled: Vec<(u32, u64, u64)> = (1..=6).map(|n| (7, n, n)).collect();
        let pages = pages(&[rank(&[(7, 1)], &sampled)], None);
        let samples: Vec<u64> = pages[0].instructions.iter().map(|instruction| instruction.samples).collect();
        assert_eq!(samples, [6, 5, 4, 3, 2]);
    }
}
