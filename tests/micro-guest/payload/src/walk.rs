//! The memory walk: where each step goes depends on what the steps before it wrote, so one lost or torn byte anywhere
//! changes the checksum.

/// Words between two steps of the first half of the walk, which goes straight on: one cache line and one word, so that every
/// line of a page is met at a different place.
const STRIDE: usize = 9;

/// Fills `memory` from `seed`, walks it for `steps` (first in strides, then at random) and returns a checksum of the walk and
/// of what the memory holds afterwards. Zero for no memory.
#[must_use]
pub fn walk(memory: &mut [u64], seed: u64, steps: u64) -> u64 {
    let len = memory.len();
    if len == 0 {
        return 0;
    }
    let mut word = seed;
    for slot in memory.iter_mut() {
        word = mix(word);
        *slot = word;
    }
    let mut at = 0;
    let mut sum = seed;
    for step in 0..steps {
        if let Some(slot) = memory.get_mut(at) {
            sum = mix(sum ^ *slot);
            *slot = slot.rotate_left(7) ^ sum;
        }
        at = if step < steps / 2 { (at + STRIDE) % len } else { index(sum, len) };
    }
    memory.iter().fold(sum, |sum, word| mix(sum ^ word))
}

/// A number below `len` out of the high half of `word`.
fn index(word: u64, len: usize) -> usize {
    (word >> 32) as usize % len
}

/// One round of the SplitMix64 generator (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[must_use]
pub fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_is_the_published_generator() {
        // First outputs of SplitMix64 seeded with 0: each seed is the previous one plus the golden-ratio constant.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn every_input_matters() {
        let sum = |len: usize, seed, steps| walk(&mut vec![0; len], seed, steps);
        let base = sum(1000, 1, 5000);
        assert_eq!(base, sum(1000, 1, 5000));
        assert_ne!(base, sum(1001, 1, 5000));
        assert_ne!(base, sum(1000, 2, 5000));
        assert_ne!(base, sum(1000, 1, 5001));
        assert_eq!(sum(0, 1, 10), 0);
    }
}
