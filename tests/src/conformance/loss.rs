//! Lost ranks: what is told of them, and when. A rank is lost here by dropping its endpoints.

use std::thread;
use std::time::{Duration, Instant};

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{GuardedRead, OperationId, SendError};

use super::messages::{pattern, sleep_on};
use super::{Make, PATIENCE, Ranks, Seen, send};

/// Time within which a rank that has gone is told of.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A guarded read of a segment of one word.
const READ: GuardedRead = GuardedRead { mark_at: 7, mark: 1, at: 0, len: 7 };

/// Ends a rank.
fn end(ranks: &mut Ranks, rank: usize) {
    ranks.ends[rank].clear();
}

/// Messages that came before the loss are handed out before it, and nothing is after it.
pub fn a_loss_is_told_once_after_everything_that_came_before(make: Make) {
    const COUNT: usize = 100;
    let mut ranks = Ranks::new(make, 3, 1, 1);
    for number in 0..COUNT {
        send(ranks.end(2), 0, &number.to_le_bytes(), &pattern(number, 100)).expect("little is under way");
    }
    // Unread at the rank that goes.
    send(ranks.end(0), 2, b"too late", &[]).expect("nothing is under way");
    ranks.poll(2);
    end(&mut ranks, 2);
    let gone = Instant::now();
    ranks.poll_until(&[0, 1], "the loss", |ranks| (0..2).all(|rank| ranks.seen(rank).contains(&Seen::Lost(Rank(2)))));
    assert!(gone.elapsed() < AT_ONCE, "told after {:?}", gone.elapsed());
    ranks.linger(&[0, 1]);
    let messages = (0..COUNT).map(|number| Seen::Message(Rank(2), number.to_le_bytes().to_vec(), pattern(number, 100)));
    assert!(ranks.seen(0).iter().cloned().eq(messages.chain([Seen::Lost(Rank(2))])), "what rank 0 has seen");
    assert_eq!(ranks.seen(1), [Seen::Lost(Rank(2))]);
}

/// For every kind of operation; the other ranks are reached as before.
pub fn nothing_goes_to_a_lost_rank_and_the_others_go_on(make: Make) {
    let mut ranks = Ranks::new(make, 3, 1, 1);
    end(&mut ranks, 1);
    ranks.poll_until(&[0, 2], "the loss", |ranks| !ranks.seen(0).is_empty() && !ranks.seen(2).is_empty());
    let (id, lost) = (OperationId(1), Err(SendError::Lost(Rank(1))));
    assert_eq!(send(ranks.end(0), 1, &[], &[]), lost);
    assert_eq!(ranks.end(0).get(id, Rank(1), 0, 8), lost);
    assert_eq!(ranks.end(0).put(id, Rank(1), 0, &[1]), lost);
    assert_eq!(ranks.end(0).compare_and_swap(id, Rank(1), 0, 0, 1), lost);
    assert_eq!(ranks.end(0).fetch_and_add(id, Rank(1), 0, 1), lost);
    assert_eq!(ranks.end(0).guarded_read(id, Rank(1), READ), lost);
    send(ranks.end(0), 2, b"still here", &[]).expect("rank 2 is not lost");
    ranks.end(0).fetch_and_add(id, Rank(2), 0, 1).expect("rank 2 is not lost");
    ranks.poll_until(&[0, 2], "the others", |ranks| ranks.seen(0).len() == 2 && ranks.seen(2).len() == 2);
    assert_eq!(ranks.seen(0), [Seen::Lost(Rank(1)), Seen::Old(id, 0)]);
    assert_eq!(ranks.seen(2)[1], Seen::Message(Rank(0), b"still here".to_vec(), Vec::new()));
}

/// By each endpoint, as each has its own user.
pub fn a_loss_is_told_for_every_class(make: Make) {
    let mut ranks = Ranks::new(make, 2, 3, 1);
    end(&mut ranks, 0);
    ranks.poll_until(&[1], "the losses", |ranks| ranks.seen[1].iter().all(|seen| !seen.is_empty()));
    ranks.linger(&[1]);
    assert_eq!(ranks.seen[1], [[Seen::Lost(Rank(0))], [Seen::Lost(Rank(0))], [Seen::Lost(Rank(0))]]);
}

/// Nor does sending to a rank that has gone do more than fail, before the loss is told.
pub fn operations_under_way_to_a_lost_rank_never_complete(make: Make) {
    let mut ranks = Ranks::new(make, 2, 1, 8);
    ranks.linger(&[0, 1]);
    end(&mut ranks, 1);
    for id in 0..10 {
        let gotten = ranks.end(0).get(OperationId(id), Rank(1), 0, 8);
        for begun in [gotten, ranks.end(0).guarded_read(OperationId(10 + id), Rank(1), READ)] {
            match begun {
                Ok(()) => {}
                Err(error) => assert_eq!(error, SendError::Lost(Rank(1))),
            }
        }
    }
    ranks.poll_until(&[0], "the loss", |ranks| !ranks.seen(0).is_empty());
    ranks.linger(&[0]);
    assert_eq!(ranks.seen(0), [Seen::Lost(Rank(1))]);
}

/// Its user need not poll to learn of it; and does not spin afterwards.
pub fn a_loss_wakes_who_sleeps(make: Make) {
    let mut ranks = Ranks::new(make, 2, 1, 1);
    ranks.linger(&[0, 1]);
    let gone = ranks.ends.pop();
    let woken = thread::scope(|scope| {
        let sleeper = scope.spawn(|| sleep_on(ranks.end(0), PATIENCE));
        drop(gone);
        sleeper.join().expect("the sleeper")
    });
    assert!(woken);
    ranks.poll_until(&[0], "the loss", |ranks| ranks.seen(0) == [Seen::Lost(Rank(1))]);
    assert!(!sleep_on(ranks.end(0), Duration::ZERO), "readable, though the loss is told");
}
