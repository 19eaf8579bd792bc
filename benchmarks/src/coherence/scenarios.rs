//! What is measured, in rounds: each round measures everything once, floors and all, so that a change of the machine's
//! speed meets all alike.

use super::cluster::{Cluster, Failure, Shape};
use super::floor::{self, Echo, Placed};
use super::report::{Goal, Row, middle};
use super::wires::Wires;
use super::work::{Pages, Work};
use crate::from_nanoseconds;
use vincs_coherence::id::PAGE_BYTES;

/// Pages of one measurement of single faults.
const FAULTS: u32 = 256;
/// Pages of one measurement of a stream: 32 MiB.
const STREAM: u32 = 8192;
/// Exchanges of one measurement between two threads.
const EXCHANGES: u32 = 200;
/// Requests over a plain connection.
const REQUESTS: u32 = 400;

/// Bytes of protocol state per page and rank that the design allows.
const MAX_STATE: f64 = 40.0;

/// Times of one round, in microseconds, and rates, in bytes per microsecond.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    fault: f64,
    fault_together: f64,
    page: f64,
    short: f64,
    raw_stream: f64,
    cold: f64,
    reread: f64,
    upgrade: f64,
    upgrade_away: f64,
    ping_pong: f64,
    stream: f64,
    random_ahead: f64,
    random_alone: f64,
    barrier: f64,
    lock: f64,
}

/// How the ranks are started.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Rounds.
    pub rounds: u32,
    /// Read-ahead in pages.
    pub read_ahead: u16,
    /// How long service threads spin, in microseconds.
    pub spin: u64,
}

/// The middle one of times in nanoseconds, in microseconds.
pub(crate) fn microseconds(times: &[u64]) -> f64 {
    middle(&times.iter().map(|time| from_nanoseconds(*time)).collect::<Vec<_>>())
}

fn mixed(first: u32, count: u32) -> Pages {
    Pages { first, count, mixed: true }
}

/// Measures two ranks.
///
/// # Errors
/// What the host refuses.
pub fn two_ranks(options: Options, mut told: impl FnMut(String)) -> Result<Vec<Row>, Failure> {
    let Options { read_ahead, spin, .. } = options;
    let shape = Shape { ranks: 2, pages: 1 << 18, read_ahead, spin, hold: None, wires: Wires::Tcp };
    let mut ahead = Cluster::start(shape)?;
    let mut alone = Cluster::start(Shape { read_ahead: 0, ..shape })?;
    let mut rounds = Vec::new();
    for number in 0..=options.rounds {
        let round = round(&mut ahead, &mut alone)?;
        // The first one finds everything cold.
        if number > 0 {
            told(format!("round {number} of {}: {round:?}", options.rounds));
            rounds.push(round);
        }
    }
    told(format!("minimum hold time: {:?}", ahead.hold()));
    let state = state(&mut ahead)?;
    Ok(rows(&rounds, state))
}

fn round(ahead: &mut Cluster, alone: &mut Cluster) -> Result<Round, Failure> {
    let mut requests = |answer| {
        let echo = Echo { rounds: REQUESTS, answer };
        let times = alone.with_port(1, Work::Echo(echo), |port| floor::round_trips(port, echo))?;
        Ok::<_, Failure>(microseconds(&times))
    };
    let (page, short) = (requests(PAGE_BYTES)?, requests(floor::REQUEST)?);
    let bytes = u64::from(STREAM) * PAGE_BYTES as u64;
    let rate = |nanoseconds: u64| (f64::from(STREAM) * PAGE_BYTES as f64) / from_nanoseconds(nanoseconds).max(1e-3);
    let times = alone.with_port(1, Work::Source(bytes), |port| floor::stream(port).map(|time| vec![time]))?;
    let raw_stream = rate(times.first().copied().unwrap_or(0));
    let fault = microseconds(&floor::minor_faults(FAULTS as usize, Placed::usual())?);
    let fault_together = microseconds(&floor::minor_faults(FAULTS as usize, Placed::Together)?);

    let pages = mixed(alone.fresh(1, FAULTS)?, FAULTS);
    alone.run(1, Work::Write(pages))?;
    let cold = microseconds(&alone.run(0, Work::Read(pages))?);
    alone.run(1, Work::Write(pages))?;
    let reread = microseconds(&alone.run(0, Work::Read(pages))?);

    let upgrade = upgrade(alone)?;
    let pages = mixed(alone.fresh(1, FAULTS)?, FAULTS);
    alone.run(1, Work::Write(pages))?;
    alone.run(0, Work::Read(pages))?;
    let upgrade_away = microseconds(&alone.run(0, Work::Write(pages))?);
    let page_of = |cluster: &mut Cluster, home| cluster.fresh(home, 1);
    let shared = page_of(alone, 1)?;
    let turns = |turn| Work::PingPong { page: shared, rounds: u64::from(EXCHANGES), turn };
    let ping_pong = each(&alone.run_both(1, turns(1), turns(0))?, EXCHANGES);
    let flags = [page_of(alone, 0)?, page_of(alone, 1)?];
    let meet = |pages| Work::Barrier { pages, rounds: u64::from(EXCHANGES) };
    let barrier = each(&alone.run_both(1, meet([flags[1], flags[0]]), meet(flags))?, EXCHANGES);
    let page_of_lock = page_of(alone, 1)?;
    let lock = |owner| Work::Lock { page: page_of_lock, hand_overs: u64::from(EXCHANGES), owner };
    let lock = each(&alone.run_both(1, lock(2), lock(1))?, EXCHANGES);

    let random = |cluster: &mut Cluster| {
        let pages = mixed(cluster.fresh(1, 4 * FAULTS)?, 4 * FAULTS);
        cluster.run(1, Work::Write(pages))?;
        cluster.run(0, Work::Read(pages)).map(|times| microseconds(&times))
    };
    let (random_ahead, random_alone) = (random(ahead)?, random(alone)?);
    let pages = Pages { first: ahead.fresh(1, STREAM)?, count: STREAM, mixed: false };
    ahead.run(1, Work::Write(pages))?;
    let stream = rate(ahead.run(0, Work::Stream(pages))?.first().copied().unwrap_or(0));
    Ok(Round {
        fault,
        fault_together,
        page,
        short,
        raw_stream,
        cold,
        reread,
        upgrade,
        upgrade_away,
        ping_pong,
        stream,
        random_ahead,
        random_alone,
        barrier,
        lock,
    })
}

/// The time of one of so many exchanges, in microseconds.
fn each(times: &[u64], exchanges: u32) -> f64 {
    from_nanoseconds(times.first().copied().unwrap_or(0)) / f64::from(exchanges)
}

/// A write of rank 0 to pages homed there, of which all other ranks have copies.
fn upgrade(cluster: &mut Cluster) -> Result<f64, Failure> {
    let pages = mixed(cluster.fresh(0, FAULTS)?, FAULTS);
    cluster.run(0, Work::Write(pages))?;
    for rank in 1..cluster.shape().ranks {
        cluster.run(rank, Work::Read(pages))?;
    }
    // A word would do, but a page's other words cost next to nothing beside the fault.
    cluster.run(0, Work::Write(pages)).map(|times| microseconds(&times))
}

/// Bytes that rank 1 needs for a page that it has never seen, beside the page: its memory that grows when rank 0 writes
/// pages for the first time, homed here, and pages homed there are read here.
fn state(cluster: &mut Cluster) -> Result<f64, Failure> {
    // Whole stripes, as tables grow by them.
    const STRIPES: u32 = 2 * vincs_coherence::id::STRIPE_PAGES;
    let pages = Pages { first: cluster.fresh(1, STRIPES)?, count: STRIPES, mixed: false };
    let resident =
        |cluster: &mut Cluster| cluster.run(0, Work::Resident).map(|bytes| bytes.first().copied().unwrap_or(0));
    let before = resident(cluster)?;
    cluster.run(0, Work::Read(pages))?;
    let grown = resident(cluster)?.saturating_sub(before);
    // Times of the work itself are in memory at that time, too, and gone by now.
    Ok(f64::from(u32::try_from(grown)?) / f64::from(STRIPES))
}

fn rows(rounds: &[Round], state: f64) -> Vec<Row> {
    let all = |value: fn(&Round) -> f64| rounds.iter().map(value).collect::<Vec<_>>();
    let miss = || ("TCP page + fault", all(|round| round.page + round.fault));
    let short = || ("TCP short + fault", all(|round| round.short + round.fault));
    let row = |what: &str, values: Vec<f64>, floor: (&'static str, Vec<f64>), goal| Row {
        what: what.to_owned(),
        unit: "µs",
        values,
        floor,
        goal,
    };
    let nothing = || ("", Vec::new());
    vec![
        row("TCP round trip, 64 B to 4 KiB, spinning", all(|round| round.page), nothing(), Goal::None),
        row("TCP round trip, 64 B to 64 B, spinning", all(|round| round.short), nothing(), Goal::None),
        row(Placed::usual().name(), all(|round| round.fault), nothing(), Goal::None),
        row(Placed::Together.name(), all(|round| round.fault_together), nothing(), Goal::None),
        row("cold read miss", all(|round| round.cold), miss(), Goal::AtMost(1.5)),
        row("re-read after remote write", all(|round| round.reread), miss(), Goal::None),
        row("write upgrade of the home, 1 sharer", all(|round| round.upgrade), short(), Goal::None),
        row("write upgrade of a sharer, away from home", all(|round| round.upgrade_away), short(), Goal::None),
        row("ping-pong of a page, one hand-over", all(|round| round.ping_pong), miss(), Goal::None),
        Row {
            unit: "MB/s",
            ..row(
                "sequential streaming read",
                all(|round| round.stream),
                ("TCP stream", all(|round| round.raw_stream)),
                Goal::AtLeast(0.5),
            )
        },
        row(
            "random read, with read-ahead",
            all(|round| round.random_ahead),
            ("without", all(|round| round.random_alone)),
            Goal::AtMost(1.05),
        ),
        row("barrier of 2 ranks", all(|round| round.barrier), miss(), Goal::None),
        row("lock hand-off, 2 ranks", all(|round| round.lock), miss(), Goal::None),
        Row {
            unit: "B",
            ..row("state per page at a rank", vec![state], ("limit", vec![MAX_STATE]), Goal::AtMost(1.0))
        },
    ]
}

/// Measures a write to pages of which seven other ranks have copies.
///
/// # Errors
/// What the host refuses.
pub fn eight_ranks(options: Options) -> Result<Vec<Row>, Failure> {
    let (pages, spin, wires) = (1 << 15, options.spin, Wires::Tcp);
    let mut cluster = Cluster::start(Shape { ranks: 8, pages, read_ahead: 0, spin, hold: None, wires })?;
    let (mut values, mut floors) = (Vec::new(), Vec::new());
    for number in 0..=options.rounds {
        let echo = Echo { rounds: REQUESTS, answer: floor::REQUEST };
        let times = cluster.with_port(1, Work::Echo(echo), |port| floor::round_trips(port, echo))?;
        let fault = floor::minor_faults(FAULTS as usize, Placed::usual())?;
        let value = upgrade(&mut cluster)?;
        if number > 0 {
            floors.push(microseconds(&times) + microseconds(&fault));
            values.push(value);
        }
    }
    let what = "write upgrade of the home, 7 sharers".to_owned();
    Ok(vec![Row { what, unit: "µs", values, floor: ("TCP short + fault", floors), goal: Goal::None }])
}
