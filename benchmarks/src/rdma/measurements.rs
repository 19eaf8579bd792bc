//! What is measured. Each round does everything once, each operation beside its floor; a further measurement is one more entry of [`MEASUREMENTS`].

use std::io::IoSlice;
use std::time::Instant;

use vincs_coherence::id::PAGE_BYTES;
use vincs_coherence::transport::{OperationId, SendError, Transport};

use super::costs::{Cost, Used};
use super::faults::Faults;
use super::pair::{Failure, HOME, Pair, SEGMENT};
use super::perftest::{Place, Tool};
use crate::coherence::report::{Goal, Row};
use crate::{median, nanoseconds, ratio};

/// Bytes of a request by message.
const REQUEST: usize = 64;

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Measurement {
    /// What.
    pub what: &'static str,
    /// The unit of its value.
    pub unit: &'static str,
    /// Operations of a round.
    pub operations: u64,
    /// Does so many operations and gives the value of the round.
    pub run: fn(&mut Pair, u64) -> Result<f64, Failure>,
    /// What does the same with the verbs library alone, if there is such a tool.
    pub floor: Option<Tool>,
    /// The goal.
    pub goal: Goal,
}

/// Latencies are medians of the single operations, as the tools' "typical" times are.
const LATENCY: &str = "t_typical[usec]";

/// Most latency, in times of the floor's.
const SLOWEST: Goal = Goal::AtMost(1.3);

/// Least bandwidth, in times of the floor's.
const LEAST: Goal = Goal::AtLeast(0.8);

const fn bandwidth(arguments: &'static [&'static str]) -> Option<Tool> {
    // Gbit/s into MB/s.
    Some(Tool { name: "ib_read_bw", arguments, column: "average[Gb/sec]", factor: 125.0 })
}

/// All of them, in the order in which they are told.
pub const MEASUREMENTS: [Measurement; 7] = [
    Measurement {
        what: "get of 4 KiB",
        unit: "µs",
        operations: 1000,
        run: |pair, count| latencies(pair, count, |end, id, number| end.get(id, HOME, page(number), PAGE_BYTES)),
        floor: Some(Tool { name: "ib_read_lat", arguments: &["-s", "4096"], column: LATENCY, factor: 1.0 }),
        goal: SLOWEST,
    },
    Measurement {
        what: "compare-and-swap of 8 bytes",
        unit: "µs",
        operations: 1000,
        run: |pair, count| {
            // The word is zero and stays so: each swap succeeds.
            latencies(pair, count, |end, id, _| end.compare_and_swap(id, HOME, 0, 0, 0))
        },
        floor: Some(Tool { name: "ib_atomic_lat", arguments: &["-A", "CMP_AND_SWAP"], column: LATENCY, factor: 1.0 }),
        goal: SLOWEST,
    },
    Measurement {
        what: "4 KiB asked for by message (64 B)",
        unit: "µs",
        operations: 500,
        run: messages,
        floor: None,
        goal: Goal::None,
    },
    Measurement {
        what: "gets of 4 KiB, 1 outstanding",
        unit: "MB/s",
        operations: 1000,
        run: |pair, count| stream(pair, count, PAGE_BYTES, 1),
        floor: bandwidth(&["-s", "4096", "-o", "1", "-t", "1", "--report_gbits"]),
        goal: LEAST,
    },
    Measurement {
        what: "gets of 4 KiB, 16 outstanding",
        unit: "MB/s",
        operations: 4000,
        run: |pair, count| stream(pair, count, PAGE_BYTES, 16),
        floor: bandwidth(&["-s", "4096", "-o", "16", "-t", "16", "--report_gbits"]),
        goal: LEAST,
    },
    Measurement {
        what: "gets of 64 KiB, 1 outstanding",
        unit: "MB/s",
        operations: 300,
        run: |pair, count| stream(pair, count, 16 * PAGE_BYTES, 1),
        floor: bandwidth(&["-s", "65536", "-o", "1", "-t", "1", "--report_gbits"]),
        goal: LEAST,
    },
    Measurement {
        what: "gets of 64 KiB, 16 outstanding",
        unit: "MB/s",
        operations: 1000,
        run: |pair, count| stream(pair, count, 16 * PAGE_BYTES, 16),
        floor: bandwidth(&["-s", "65536", "-o", "16", "-t", "16", "--report_gbits"]),
        goal: LEAST,
    },
];

/// Offset of a page of the segment.
fn page(number: u64) -> u64 {
    number * PAGE_BYTES as u64 % SEGMENT
}

/// Median time of operations, one after the other, spinning; in microseconds.
fn latencies(
    pair: &mut Pair,
    count: u64,
    start: fn(&dyn Transport, OperationId, u64) -> Result<(), SendError>,
) -> Result<f64, Failure> {
    let mut times = Vec::new();
    for number in 0..count {
        let begun = Instant::now();
        pair.start_operation(|end, id| start(end, id, number))?;
        pair.next(std::hint::spin_loop)?;
        times.push(nanoseconds(begun));
    }
    Ok(ratio(median(times), 1000))
}

/// Median time of requests that the home's thread answers, in microseconds. Between polls this thread gives way, as the two may share a processor.
fn messages(pair: &mut Pair, count: u64) -> Result<f64, Failure> {
    let (request, mut times) = ([7; REQUEST], Vec::new());
    for _ in 0..count {
        let begun = Instant::now();
        pair.end().send(HOME, &[], &[IoSlice::new(&request)])?;
        pair.next(std::thread::yield_now)?;
        times.push(nanoseconds(begun));
    }
    Ok(ratio(median(times), 1000))
}

/// Reads with so many operations under way; MB/s.
fn stream(pair: &mut Pair, count: u64, bytes: usize, outstanding: u64) -> Result<f64, Failure> {
    let begun = Instant::now();
    let (mut started, mut ended) = (0, 0);
    while ended < count {
        while started < count && started - ended < outstanding {
            let offset = started * bytes as u64 % SEGMENT;
            match pair.start_operation(|end, id| end.get(id, HOME, offset, bytes)) {
                Ok(()) => started += 1,
                Err(SendError::Full(_)) if started > ended => break,
                Err(error) => return Err(error.into()),
            }
        }
        ended += pair.next(std::hint::spin_loop)? as u64;
    }
    Ok(ratio(count * bytes as u64 * 1000, nanoseconds(begun)))
}

/// Measures everything in so many rounds, after one that is not counted.
///
/// # Errors
/// What the host refuses.
pub fn rounds(
    pair: &mut Pair,
    place: &mut Place,
    mut faults: Faults,
    rounds: u32,
    tell: impl Fn(String),
) -> Result<(Vec<Row>, Vec<Cost>), Failure> {
    let row = |measurement: &Measurement| Row {
        what: measurement.what.to_owned(),
        unit: measurement.unit,
        values: Vec::new(),
        floor: (measurement.floor.map_or("", |tool| tool.name), Vec::new()),
        goal: measurement.goal,
    };
    let cost = |measurement: &Measurement| Cost {
        what: measurement.what,
        operations: 0,
        here: Used::default(),
        home: Used::default(),
    };
    let mut rows: Vec<Row> = MEASUREMENTS.iter().map(row).collect();
    let mut costs: Vec<Cost> = MEASUREMENTS.iter().map(cost).collect();
    for round in 0..=rounds {
        tell(format!("round {round} of {rounds}"));
        for ((measurement, row), cost) in MEASUREMENTS.iter().zip(&mut rows).zip(&mut costs) {
            let count = measurement.operations;
            let floor = measurement.floor.map(|tool| place.run(pair, &tool, count)).transpose()?;
            // What came up meanwhile is not this measurement's.
            pair.live()?;
            let [here, home] = pair.used()?;
            let value = (measurement.run)(pair, count)?;
            let [here_after, home_after] = pair.used()?;
            if round == 0 {
                continue;
            }
            row.values.push(value);
            row.floor.1.extend(floor);
            // The last round stands for all: counts do not differ.
            *cost = Cost { operations: count, here: here_after.since(here), home: home_after.since(home), ..*cost };
        }
        faults.round(round > 0, &|| pair.live())?;
    }
    let gets = rows.first().map_or(&[][..], |get| &get.values);
    let (of_faults, costs_of_faults) = faults.told(gets);
    rows.extend(of_faults);
    costs.extend(costs_of_faults);
    Ok((rows, costs))
}
