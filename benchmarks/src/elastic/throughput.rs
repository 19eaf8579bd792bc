//! What a guest at work loses when a rank joins and when it leaves, beside what it loses when nothing happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vincs_micro_guest::{HostDevice, Program, Ranks, Session};

use super::dip::{AFTER, Dip, Sample};
use super::{LIMIT, at_work, milliseconds};
use crate::coherence::cluster::Failure;
use crate::coherence::report::{Goal, Row};

/// Virtual processors, two for each rank that starts the machine.
const VCPUS: u32 = 4;

/// What they do: rounds of about a millisecond on a mebibyte each, after each of which all write one page.
const WORK: Program = Program::Work { megabytes: 1, steps: 50_000, seed: 1 };

/// How long the guest works before something is ordered.
const BEFORE: Duration = Duration::from_secs(2);

/// How long it is looked at after that, beside [`AFTER`].
const SETTLES: Duration = Duration::from_secs(1);

/// How often rounds are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// What is done to the guest.
struct Event {
    dip: Dip,
    /// How long the order took.
    took: Duration,
}

/// Measures it in so many rounds: nothing, then a rank that joins, then the same that leaves.
///
/// # Errors
/// There is no machine, or it fails.
pub fn measure(rounds: u32) -> Result<Vec<Row>, Failure> {
    let joins = u16::try_from(rounds)? + 1;
    let ranks = Ranks { seats: 2 + joins, ..Ranks::new(2) };
    let mut session = Session::start_on(WORK, VCPUS, &ranks)?;
    at_work(&session, |rounds| rounds.iter().filter(|rounds| **rounds > 0).count() == VCPUS as usize)?;
    let (mut nothing, mut joined, mut left) = (Vec::new(), Vec::new(), Vec::new());
    // The first round finds everything cold.
    for number in 0..=rounds {
        let device = session.device();
        let idle = watch(&device, || Ok(()))?;
        let mut rank = 0;
        let join = watch(&device, || {
            rank = session.join()?;
            Ok(())
        })?;
        let leave = watch(&device, || {
            drop(session.leave(rank, LIMIT)?);
            Ok(())
        })?;
        if number > 0 {
            nothing.push(idle);
            joined.push(join);
            left.push(leave);
        }
    }
    session.ask_to_stop();
    session.wait(LIMIT)?;
    Ok(rows(&nothing, &joined, &left))
}

/// Watches the guest while something is done to it.
fn watch(device: &Arc<HostDevice>, event: impl FnOnce() -> Result<(), Failure>) -> Result<Event, Failure> {
    let over = AtomicBool::new(false);
    let started = Instant::now();
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut samples: Vec<Sample> = Vec::new();
            while !over.load(Ordering::Relaxed) {
                samples.push((started.elapsed(), device.rounds().iter().sum()));
                thread::sleep(LOOK);
            }
            samples
        });
        thread::sleep(BEFORE);
        let ordered = started.elapsed();
        let done = event();
        let took = started.elapsed() - ordered;
        thread::sleep(if done.is_ok() { SETTLES + AFTER } else { Duration::ZERO });
        over.store(true, Ordering::Relaxed);
        let samples = sampler.join().map_err(|_| "the thread that looks at the guest has failed")?;
        done.map(|()| Event { dip: Dip::of(&samples, ordered), took })
    })
}

fn rows(nothing: &[Event], joined: &[Event], left: &[Event]) -> Vec<Row> {
    let all = |events: &[Event], value: fn(&Event) -> f64| events.iter().map(value).collect::<Vec<_>>();
    let row = |what: &str, unit, values, floor| Row { what: what.to_owned(), unit, values, floor, goal: Goal::None };
    let nowhere = || ("", Vec::new());
    let rate: fn(&Event) -> f64 = |event| event.dip.before;
    let depth: fn(&Event) -> f64 = |event| event.dip.depth();
    let recovery: fn(&Event) -> f64 = |event| milliseconds(event.dip.recovery);
    let took: fn(&Event) -> f64 = |event| milliseconds(event.took);
    let still = |value| ("nothing happens", all(nothing, value));
    vec![
        row("guest's rounds on 2 ranks", "1/s", all(nothing, rate), nowhere()),
        row("the same on 3 ranks", "1/s", all(left, rate), ("on 2 ranks", all(nothing, rate))),
        row("throughput dip at a join", "%", all(joined, depth), still(depth)),
        row("recovery from a join", "ms", all(joined, recovery), still(recovery)),
        row("throughput dip at a leave", "%", all(left, depth), still(depth)),
        row("recovery from a leave", "ms", all(left, recovery), still(recovery)),
        row("join, from the order until the rank takes part", "ms", all(joined, took), nowhere()),
        row("leave, from the order until it has left", "ms", all(left, took), nowhere()),
    ]
}
