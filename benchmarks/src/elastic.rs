//! Machines that change while they run, natively: the micro-guest on ranks of this process, connected by TCP over loopback, and memory alone on
//! ranks that are processes.
//!
//! - [`downtime`]: how long a virtual processor stands still when it moves;
//! - [`homes`]: how fast pages get another home;
//! - [`throughput`]: what a guest at work loses when a rank joins and leaves; [`dip`]: how that is told from its rounds.

pub mod dip;
pub mod downtime;
pub mod homes;
pub mod throughput;

use std::thread;
use std::time::{Duration, Instant};

use vincs_micro_guest::Session;

use crate::coherence::cluster::Failure;
use crate::transport::{Pair, Phase};

/// How long anything that is waited for may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether a guest is at work.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until a guest is at work, by the rounds that each of its processors has done.
fn at_work(session: &Session, is_at_work: impl Fn(&[u64]) -> bool) -> Result<(), Failure> {
    let until = Instant::now() + LIMIT;
    while !is_at_work(&session.device().rounds()) {
        if session.has_ended() || Instant::now() > until {
            return Err("the guest does not get to its work".into());
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// A phase of two processes that talk, in nanoseconds.
fn talk(pair: &mut Pair, phase: Phase) -> Result<u64, Failure> {
    // An error there belongs to its thread.
    pair.run(phase).map_err(|error| error.to_string().into())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
