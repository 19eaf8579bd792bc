//! The pages that ranks take from each other most, and the instructions that ran into them.
//!
//! A rank tells of the [`HOT_PAGES`] that it has counted most faults of, and counts none of them too low. So a page of which several ranks told has
//! `faults - over` faults at least and `faults + untold` at most. What is read is cut to [`HOTTEST`] pages once all is added up.

use std::collections::BTreeMap;

use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use vincs_vmm::memory::engine::{EngineStats, HOT_PAGES, HOTTEST, HotPage};

use crate::stats::symbols::Symbols;

/// Most instructions named of a page.
const INSTRUCTIONS: usize = 5;

/// A page with many faults.
#[derive(Debug, Eq, PartialEq, Serialize)]
pub(crate) struct HottestPage {
    /// Its place in guest memory, in pages of 4 KiB.
    pub(crate) page: u32,
    /// Its faults on all ranks that tell of it.
    pub(crate) faults: u64,
    /// How many fewer there may be, as ranks count in bounded memory.
    pub(crate) over: u64,
    /// How many more there may be, on ranks that tell of as many other pages as they can.
    pub(crate) untold: u64,
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
    // What may be untold of a page that no rank tells of, and how much less it is for one that some do.
    let (mut most_untold, mut told): (u64, BTreeMap<u32, u64>) = Default::default();
    for rank in ranks.iter().filter_map(|rank| Rank::deserialize(rank).ok()) {
        memory.add(&rank.ranks.memory);
        let untold = untold(&rank.ranks.memory.hottest);
        most_untold = most_untold.saturating_add(untold);
        for hot in &rank.ranks.memory.hottest {
            let told = told.entry(hot.page).or_default();
            *told = told.saturating_add(untold);
        }
        for sampled in rank.ranks.sampled_faults {
            let seen = samples.entry((sampled.page, sampled.instruction_pointer)).or_default();
            *seen = seen.saturating_add(sampled.samples);
        }
    }
    let page = |&HotPage { page, faults, over, .. }: &HotPage| {
        let untold = most_untold.saturating_sub(told.get(&page).copied().unwrap_or_default());
        let mut seen: Vec<(u64, u64)> =
            samples.range((page, 0)..=(page, u64::MAX)).map(|((_, pointer), samples)| (*samples, *pointer)).collect();
        seen.sort_unstable_by(|one, other| other.cmp(one));
        seen.truncate(INSTRUCTIONS);
        let instruction = |(samples, pointer)| Instruction {
            pointer: format!("{pointer:#x}"),
            function: symbols.and_then(|symbols| symbols.function(pointer)).map(str::to_owned),
            samples,
        };
        HottestPage { page, faults, over, untold, instructions: seen.into_iter().map(instruction).collect() }
    };
    memory.hottest.iter().take(HOTTEST).map(page).collect()
}

/// Most faults on a rank of a page that it does not tell of: those of the last one that it had room for, the hottest first.
fn untold(hottest: &[HotPage]) -> u64 {
    hottest.get(HOT_PAGES - 1).map_or(0, |last| last.faults)
}

/// Writes ranks' counters, each with its own hottest pages only: the rest are told for the sum.
///
/// # Errors
/// Those of the serializer.
pub(super) fn shorten<S: Serializer>(ranks: &[Value], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(ranks.len()))?;
    for rank in ranks {
        let mut rank = rank.clone();
        if let Some(Value::Array(pages)) = rank.pointer_mut("/ranks/memory/hottest") {
            pages.truncate(HOTTEST);
        }
        list.serialize_element(&rank)?;
    }
    list.end()
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
    fn a_page_that_is_eleventh_on_every_rank_is_the_machines_first() {
        let of_rank = |number: u32| {
            let mut hot: Vec<(u32, u64)> = (0..10).map(|page| (100 * (number + 1) + page, 100)).collect();
            hot.push((5, 99));
            rank(&hot, &[])
        };
        let ranks: Vec<Value> = (0..8).map(of_rank).collect();
        let pages = pages(&ranks, None);
        assert_eq!(pages.len(), HOTTEST);
        assert_eq!((pages[0].page, pages[0].faults, pages[1].faults), (5, 8 * 99, 100));
        assert!(pages.iter().all(|page| page.over == 0 && page.untold == 0), "{pages:?}");
    }

    #[test]
    fn counts_tell_by_how_much_they_may_be_wrong() {
        // As many as it can tell of, the last ones seen 7 times.
        let mut full: Vec<(u32, u64)> = (1..=256).map(|page| (1000 + page, 7)).collect();
        full[0] = (5, 50);
        let mut other = rank(&[(6, 80), (5, 1)], &[]);
        other["ranks"]["memory"]["hottest"][0]["over"] = 3.into();
        let pages = pages(&[rank(&full, &[]), other.clone(), other], None);
        let counts = pages.iter().map(|page| (page.page, page.faults, page.over, page.untold)).take(3);
        assert_eq!(counts.collect::<Vec<_>>(), [(6, 160, 6, 7), (5, 52, 0, 0), (1002, 7, 0, 0)]);
    }

    #[test]
    fn a_page_has_its_most_frequent_instructions_only() {
        let sampled: Vec<(u32, u64, u64)> = (1..=6).map(|n| (7, n, n)).collect();
        let pages = pages(&[rank(&[(7, 1)], &sampled)], None);
        let samples: Vec<u64> = pages[0].instructions.iter().map(|instruction| instruction.samples).collect();
        assert_eq!(samples, [6, 5, 4, 3, 2]);
    }
}
