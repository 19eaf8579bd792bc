//! Every fault and every hold is answered in bounded time, and every instruction ends in a bounded number of faults.

use crate::id::{Access, Page, Rank};

use super::{Checker, Violation};

/// Most faults of one instruction. With a hold time longer than it takes to get the other pages, it is few; where ranks
/// are slow, chance has to help.
pub const MAX_RETRIES: u32 = 500;

/// Most events of one simulation: beyond, something goes round in circles.
pub const MAX_EVENTS: u64 = 1_000_000;

/// A fault that is not answered after its time.
#[must_use]
pub fn unanswered(rank: Rank, vcpu: usize, page: Page, access: Access, limit: u64) -> Violation {
    let what = format!("{access:?} of processor {vcpu} at rank {} is not answered for {limit} us", rank.0);
    Violation::of_page(Checker::Progress, page, what)
}

/// Checks the number of faults of an instruction.
///
/// # Errors
/// [`Violation`] when there are too many.
pub fn check_retries(rank: Rank, vcpu: usize, page: Page, retries: u32) -> Result<(), Violation> {
    if retries <= MAX_RETRIES {
        return Ok(());
    }
    let what = format!("an instruction of processor {vcpu} at rank {} has faulted {retries} times", rank.0);
    Err(Violation::of_page(Checker::Progress, page, what))
}

/// Checks the number of events of a simulation.
///
/// # Errors
/// [`Violation`] when there are too many.
pub fn check_events(rank: Rank, events: u64) -> Result<(), Violation> {
    if events <= MAX_EVENTS {
        return Ok(());
    }
    Err(Violation::of_rank(Checker::Progress, rank, format!("still busy after {events} events")))
}
