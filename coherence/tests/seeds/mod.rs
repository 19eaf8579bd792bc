//! Which seeds a test runs: one that the environment names, or many derived from the test's own number.

use std::env;

use vincs_coherence::sim::rng::Rng;

/// Seeds to run.
#[derive(Debug)]
pub(crate) struct Seeds {
    rng: Rng,
    one: Option<u64>,
    left: u64,
}

impl Seeds {
    /// `VINCS_SIM_SEED` alone when it is set; else `VINCS_SIM_RUNS` seeds, or `runs` of them.
    pub(crate) fn new(stream: u64, runs: u64) -> Self {
        let one = number("VINCS_SIM_SEED");
        let left = if one.is_some() { 1 } else { number("VINCS_SIM_RUNS").unwrap_or(runs) };
        Self { rng: Rng::new(stream), one, left }
    }
}

impl Iterator for Seeds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        Some(self.one.unwrap_or_else(|| self.rng.next_u64()))
    }
}

/// A number in the environment, decimal or hexadecimal.
#[expect(clippy::panic, reason = "a test cannot go on with an environment that it does not understand")]
fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// The command that runs a seed again.
pub(crate) fn replay(file: &str, test: &str, seed: u64) -> String {
    format!("replay: VINCS_SIM_SEED={seed:#x} cargo test -p vincs-coherence --test {file} {test}")
}
