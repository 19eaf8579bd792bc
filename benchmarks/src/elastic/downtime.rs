//! How long a virtual processor stands still when it moves from rank to rank and back, amid its work.

use std::thread;
use std::time::{Duration, Instant};

use vincs_micro_guest::{Program, Ranks, Session};
use vincs_vmm::machine::Controller;

use super::{LIMIT, at_work, talk};
use crate::coherence::cluster::Failure;
use crate::coherence::report::{Goal, Row, middle};
use crate::from_nanoseconds;
use crate::transport::{Pair, Phase};

/// The virtual processor that moves; the other one, with which the guest starts, rests meanwhile, so that the host has a processor for what moves it.
const MOVES: u32 = 1;

/// Moves of a round.
const MOVES_OF_A_ROUND: usize = 20;

/// Round trips of a round, both ends spinning.
const TRIPS: usize = 1000;

/// How long it works at a rank before it moves on.
const WORKS: Duration = Duration::from_millis(5);

/// The goal: at most so many round trips, and so many microseconds for the rest.
const GOAL: (f64, f64) = (3.0, 200.0);

/// How often to look whether it goes on.
const LOOK: Duration = Duration::from_micros(100);

/// Measures it in so many rounds, each after the round trip of the transport.
///
/// # Errors
/// There is no machine, or it fails.
pub fn measure(pair: &mut Pair, rounds: u32) -> Result<Vec<Row>, Failure> {
    let work = Program::Work { megabytes: 1, steps: 100_000, seed: 1 };
    let session = Session::start_gathered(work, 2, &Ranks::new(2))?;
    let controller = session.controller().ok_or("there is no rank 0")?;
    at_work(&session, |rounds| rounds.get(MOVES as usize).is_some_and(|rounds| *rounds > 0))?;
    let (mut away, mut ordered, mut trips) = (Vec::new(), Vec::new(), Vec::new());
    // The first round has the moved processor's pages come for the first time.
    for number in 0..=rounds {
        controller.pause(LIMIT)?;
        let trip = from_nanoseconds(talk(pair, Phase::Trips(TRIPS))?);
        controller.resume();
        session.vcpus().first().ok_or("there is no first processor")?.pause()?;
        let moves = (0..MOVES_OF_A_ROUND).map(|_| go(&session, &controller)).collect::<Result<Vec<_>, _>>()?;
        if number > 0 {
            trips.push(trip);
            away.push(middle(&moves.iter().map(|(away, _)| *away).collect::<Vec<_>>()));
            ordered.push(middle(&moves.iter().map(|(_, ordered)| *ordered).collect::<Vec<_>>()));
        }
    }
    session.ask_to_stop();
    // The one that rests is to end, too.
    controller.resume();
    session.vcpus().first().ok_or("there is no first processor")?.resume()?;
    session.wait(LIMIT)?;
    let (round_trips, rest) = GOAL;
    let allowed = trips.iter().map(|trip| round_trips * trip + rest).collect();
    let row = |what: &str, values, floor, goal| Row { what: what.to_owned(), unit: "µs", values, floor, goal };
    Ok(vec![
        row("round trip of the transport, 64 B to 4 KiB", trips.clone(), ("", Vec::new()), Goal::None),
        row("vCPU downtime of a move", away, ("3 round trips + 200 µs", allowed), Goal::AtMost(1.0)),
        row("the same move, from the order to the arrival", ordered, ("round trip", trips), Goal::None),
    ])
}

/// The processor goes to the other rank: how long it stood still, and how long it took from the order on, in microseconds.
fn go(session: &Session, controller: &Controller) -> Result<(f64, f64), Failure> {
    let (arrivals, before) = counted(session);
    let places = controller.places();
    let at = places.iter().find(|place| place.vcpu == MOVES).ok_or("the machine has ended")?.rank;
    let started = Instant::now();
    controller.migrate(MOVES, 1 - at, LIMIT)?;
    let ordered = started.elapsed();
    loop {
        let (now, away) = counted(session);
        if now > arrivals {
            thread::sleep(WORKS);
            return Ok((from_nanoseconds(away - before), ordered.as_secs_f64() * 1e6));
        }
        if started.elapsed() > LIMIT {
            return Err("a processor that has moved does not go on".into());
        }
        thread::sleep(LOOK);
    }
}

/// How often it has come to a rank, and for how many nanoseconds it stood still for that, so far.
fn counted(session: &Session) -> (u64, u64) {
    let vcpus = session.machines().filter_map(|machine| machine.vcpus().get(MOVES as usize));
    vcpus
        .map(|vcpu| vcpu.stats().snapshot())
        .fold((0, 0), |(arrivals, away), counters| (arrivals + counters.arrivals, away + counters.away_nanoseconds))
}
