//! vCPUs that move at random while the guest checks itself.

use std::thread;
use std::time::{Duration, Instant};

use vincs_micro_guest_payload::walk::mix;
use vincs_vmm::cluster::Moved;
use vincs_vmm::machine::{Controller, MigrateError, Running};

use crate::{Program, Ranks, Report, RunError, Session};

/// How many threads order moves at the same time, each of vCPUs of its own.
const THREADS: u64 = 2;

/// What moved, and how the guest was.
#[derive(Clone, Debug)]
pub struct Migrations {
    /// How long each took from the order to the arrival, the shortest first. Orders to where a vCPU was already are not among them.
    pub times: Vec<Duration>,
    /// What the guest has checked.
    pub report: Report,
}

/// Why vCPUs did not move, or the guest was not well.
#[derive(Debug, thiserror::Error)]
pub enum MigrationsError {
    /// A move failed.
    #[error("move {number} of {of}: {error}")]
    Move {
        /// Which.
        number: u64,
        /// Of how many of its thread.
        of: u64,
        /// Why.
        error: MigrateError,
    },
    /// The guest has ended early.
    #[error("the guest has ended while vCPUs moved: {0}")]
    Guest(RunError),
    /// The machine or the guest failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A vCPU is not where it is said to be, or in several places.
    #[error("vCPU {vcpu} is on ranks {on:?}, and should be on rank {rank}")]
    Place {
        /// The vCPU.
        vcpu: u32,
        /// Where it is.
        on: Vec<u16>,
        /// Where rank 0 has it.
        rank: u16,
    },
}

/// Runs [`Program::SelfCheck`] and moves its vCPUs from rank to rank at least `moves` times, as the seed has it. `limit`: for each move, and
/// for the guest's end.
///
/// # Errors
/// [`MigrationsError`] when anything is not as it should be.
pub fn migrate_at_random(
    vcpus: u32,
    ranks: &Ranks,
    moves: u64,
    seed: u64,
    limit: Duration,
) -> Result<Migrations, MigrationsError> {
    let program = Program::SelfCheck { rounds: 20_000, period: 5_000_000 };
    let session = Session::start_gathered(program, vcpus, ranks)?;
    let controller = session.controller().ok_or(RunError::Vcpus(vcpus))?;
    // Whoever moves them before they run moves what is easy to move.
    let _ = session.self_check_window(limit);
    let movers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let controller = controller.clone();
            let of = (u64::from(vcpus), u64::from(ranks.ranks));
            thread::spawn(move || {
                move_some(&controller, of, thread, moves.div_ceil(THREADS), mix(seed ^ thread), limit)
            })
        })
        .collect();
    while movers.iter().any(|mover| !mover.is_finished()) && !session.has_ended() {
        thread::sleep(Duration::from_millis(1));
    }
    if session.has_ended() {
        let error = session.wait_here(limit).map_or_else(|error| error, |_| RunError::Guest("nothing".into()));
        return Err(MigrationsError::Guest(error));
    }
    let mut times = Vec::new();
    for mover in movers {
        times.extend(mover.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))?);
    }
    times.sort_unstable();
    // A rank says that it has a vCPU's state before the vCPU's thread goes on with it.
    let until = Instant::now() + limit;
    for place in controller.places() {
        let mut on = ranks_with(&session, place.vcpu);
        while on != [place.rank] && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
            on = ranks_with(&session, place.vcpu);
        }
        if on != [place.rank] {
            return Err(MigrationsError::Place { vcpu: place.vcpu, on, rank: place.rank });
        }
    }
    session.ask_to_stop();
    let report = session.wait(limit)?;
    Ok(Migrations { times, report })
}

/// The ranks that have a vCPU.
fn ranks_with(session: &Session, vcpu: u32) -> Vec<u16> {
    let has = |machine: &Running| machine.vcpus().iter().any(|own| own.id().0 == vcpu && own.is_here());
    (0..).zip(session.machines()).filter(|(_, machine)| has(machine)).map(|(rank, _)| rank).collect()
}

/// One thread's moves, of every so many-th vCPU.
fn move_some(
    controller: &Controller,
    (vcpus, ranks): (u64, u64),
    thread: u64,
    moves: u64,
    mut seed: u64,
    limit: Duration,
) -> Result<Vec<Duration>, MigrationsError> {
    let mut times = Vec::new();
    let own: Vec<u64> = (0..vcpus).filter(|vcpu| vcpu % THREADS == thread % vcpus.min(THREADS)).collect();
    let mut number = 0;
    while (times.len() as u64) < moves {
        number += 1;
        seed = mix(seed);
        let vcpu = own.get(usize::try_from(seed % own.len() as u64).unwrap_or(0)).copied().unwrap_or(0);
        let rank = (seed >> 32) % ranks;
        let (vcpu, rank) = (u32::try_from(vcpu).unwrap_or(0), u16::try_from(rank).unwrap_or(0));
        let asked = Instant::now();
        match controller.migrate(vcpu, rank, limit) {
            Ok(Moved::From(_)) => times.push(asked.elapsed()),
            Ok(Moved::WasThere) => {}
            Err(error) => return Err(MigrationsError::Move { number, of: moves, error }),
        }
    }
    Ok(times)
}
