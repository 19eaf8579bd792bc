//! How fast pages get another home, beside the transport that carries them.

use vincs_coherence::id::PAGE_BYTES;

use super::talk;
use crate::coherence::cluster::{Cluster, Failure, Shape};
use crate::coherence::report::{Goal, Row};
use crate::coherence::wires::Wires;
use crate::coherence::work::{Pages, Work};
use crate::transport::{Pair, Phase, STREAMED};

/// Pages of one measurement: 16 MiB, of which all are written.
const PAGES: u32 = 4096;

/// Pages homed at each rank: for all measurements of the most rounds.
const SHARE: u32 = 1 << 18;

/// Threads that order hand-overs at once, each run after the one before it: one that waits for each, and some.
const CALLERS: [u16; 2] = [1, 4];

/// How long service threads look for work before they sleep, in microseconds.
const SPIN: u64 = 100;

/// The goal, in parts of the raw bandwidth.
const GOAL: Goal = Goal::AtLeast(0.5);

/// Measures it in so many rounds, each after the bandwidth of the transport.
///
/// # Errors
/// There are no ranks, or they fail.
pub fn measure(pair: &mut Pair, rounds: u32) -> Result<Vec<Row>, Failure> {
    let (pages, spin, wires) = (SHARE, SPIN, Wires::Tcp);
    let mut cluster = Cluster::start(Shape { ranks: 2, pages, read_ahead: 0, spin, hold: None, wires })?;
    let bytes = f64::from(PAGES) * PAGE_BYTES as f64;
    let mut raw = Vec::new();
    let mut rates = CALLERS.map(|_| Vec::new());
    for number in 0..=rounds {
        let bodies = PAGES as usize * PAGE_BYTES / STREAMED;
        let streamed = bytes / (talk(pair, Phase::Stream(bodies))?.max(1) as f64 / 1e3);
        for (callers, rates) in CALLERS.into_iter().zip(&mut rates) {
            let pages = Pages { first: cluster.fresh(0, PAGES)?, count: PAGES, mixed: false };
            cluster.run(0, Work::Write(pages))?;
            let took = cluster.hand_over(pages, 1, callers)?;
            if number > 0 {
                rates.push(bytes / (took.max(1) as f64 / 1e3));
            }
        }
        // The first one finds everything cold.
        if number > 0 {
            raw.push(streamed);
        }
    }
    let row = |(callers, values)| Row {
        what: match callers {
            1 => "home hand-over, run after run of 128 pages".to_owned(),
            callers => format!("home hand-over, {callers} runs at once"),
        },
        unit: "MB/s",
        values,
        floor: ("bodies of 1 MiB", raw.clone()),
        goal: GOAL,
    };
    Ok(CALLERS.into_iter().zip(rates).map(row).collect())
}
