//! What is done to the bytes of pages: differences of those of relaxed memory found and made, and hashes of those that are shown in windows, beside
//! comparing and copying a page, in the same rounds.

use std::hint::black_box;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use vincs_benchmarks::coherence::report::{Goal, HEADING, Row};
use vincs_benchmarks::ended;
use vincs_coherence::hlrc::diff::{Diff, apply};
use vincs_coherence::id::PAGE_BYTES;
use vincs_coherence::window::{Word, hash};

/// A page.
type Bytes = [u8; PAGE_BYTES];

/// Measures differences of pages of relaxed memory, and hashes of those in windows
#[derive(Debug, Parser)]
#[command(name = "bench-hlrc")]
struct Cli {
    /// Rounds, each of which measures everything once
    #[arg(long, default_value_t = 51, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Pages measured at a time: a few stay in the first cache, many do not
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pages: u32,
}

/// Twins, and pages that differ from them somewhere.
struct Set {
    what: &'static str,
    goal: Goal,
    twins: Vec<Bytes>,
    pages: Vec<Bytes>,
}

/// Every `step`-th byte of each page is changed, `len` bytes at a time.
fn set(what: &'static str, goal: Goal, count: u32, (step, len): (usize, usize)) -> Set {
    let fill = |at: usize| u8::try_from(at % 251).unwrap_or(0);
    let twins: Vec<Bytes> = (0..count).map(|_| std::array::from_fn(fill)).collect();
    let mut pages = twins.clone();
    for page in &mut pages {
        page.chunks_mut(step).for_each(|chunk| chunk.iter_mut().take(len).for_each(|byte| *byte = !*byte));
    }
    Set { what, goal, twins, pages }
}

/// Nanoseconds for each page.
fn time(count: usize, mut work: impl FnMut()) -> f64 {
    // As often as takes about a tenth of a millisecond at the speed of memory.
    let times = (1024 / count).max(1);
    let started = Instant::now();
    (0..times).for_each(|_| work());
    started.elapsed().as_secs_f64() * 1e9 / (times * count) as f64
}

/// One round: comparing, finding the difference, copying, making it, hashing.
fn round(set: &Set, scratch: &mut [Bytes], diff: &mut Diff) -> [f64; 5] {
    let (twins, pages, count) = (black_box(&set.twins), black_box(&set.pages), set.pages.len());
    // A page is compared with itself copied, as one that differs is not compared to its end.
    scratch.copy_from_slice(pages);
    let compare = time(count, || {
        scratch.iter().zip(pages).for_each(|(one, other)| {
            black_box(one == other);
        });
    });
    let find = time(count, || {
        twins.iter().zip(pages).for_each(|(twin, page)| {
            diff.set(twin, page);
            black_box(&*diff);
        });
    });
    let copy = time(count, || {
        scratch.iter_mut().zip(pages).for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&*scratch);
    });
    let make = time(count, || {
        scratch.iter_mut().for_each(|page| apply(diff, page));
        black_box(&*scratch);
    });
    let hashed = time(count, || {
        pages.iter().for_each(|page| {
            black_box(hash(Word(1 << 32 | 1), page));
        });
    });
    [compare, find, copy, make, hashed]
}

fn measure(cli: &Cli) -> Vec<Row> {
    let sets = [
        set("unchanged", Goal::AtMost(1.3), cli.pages, (PAGE_BYTES, 0)),
        set("8 changed bytes in one place", Goal::None, cli.pages, (PAGE_BYTES, 8)),
        set("8 changed bytes, strewn", Goal::None, cli.pages, (PAGE_BYTES / 8, 1)),
        set("256 changed words, strewn", Goal::None, cli.pages, (PAGE_BYTES / 256, 8)),
        set("all changed", Goal::None, cli.pages, (PAGE_BYTES, PAGE_BYTES)),
    ];
    let mut scratch = vec![[0; PAGE_BYTES]; cli.pages as usize];
    let mut diff = Diff::default();
    let mut rows = Vec::new();
    let mut samples = vec![[const { Vec::new() }; 5]; sets.len()];
    for _ in 0..=cli.rounds {
        for (set, samples) in sets.iter().zip(&mut samples) {
            let values = round(set, &mut scratch, &mut diff);
            samples.iter_mut().zip(values).for_each(|(samples, value)| samples.push(value));
        }
    }
    for (set, samples) in sets.iter().zip(samples) {
        // The first round is not counted.
        let [compare, find, copy, make, hashed] =
            samples.map(|samples| samples.into_iter().skip(1).collect::<Vec<f64>>());
        let row = |what: &str, values, floor, goal| Row {
            what: format!("{what}, {}", set.what),
            unit: "ns/page",
            values,
            floor,
            goal,
        };
        rows.push(row("difference", find, ("memcmp", compare), set.goal));
        if set.what == "unchanged" {
            let floor = ("memcpy", copy.clone());
            rows.push(Row {
                what: "hash of a shown page".to_owned(),
                unit: "ns/page",
                values: hashed,
                floor,
                goal: Goal::None,
            });
        }
        rows.push(row("apply", make, ("memcpy", copy), Goal::None));
    }
    rows
}

fn print(cli: &Cli) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{HEADING}")?;
    measure(cli).into_iter().try_for_each(|row| writeln!(out, "{row}"))
}

fn main() -> ExitCode {
    ended("bench-hlrc", print(&Cli::parse()))
}
