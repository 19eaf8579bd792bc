//! Messages: order, exactly once, sizes, back-pressure, readiness.

use std::io::IoSlice;
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Event, MAX_BODY, MAX_HEADER, OperationId, SendError, Transport};

use super::{Make, PATIENCE, Ranks, Seen, rank, send};

/// Waits on an endpoint as its user does; says whether it is readable by then.
///
/// # Panics
/// The endpoint cannot be waited on.
#[must_use]
pub fn sleep_on(end: &dyn Transport, time: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(end.ready(), PollFlags::IN)];
    let time = Timespec::try_from(time).expect("a short time");
    poll(&mut fds, Some(&time)).expect("an endpoint can be waited on") > 0
}

/// Bytes that tell where they are in which message.
#[must_use]
pub fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index.wrapping_mul(31) ^ (index >> 8) ^ seed.wrapping_mul(151)).to_le_bytes()[0]).collect()
}

/// With 2, 3 and 8 ranks, each sends to each other in each class.
pub fn every_message_arrives_once_and_in_order(make: Make) {
    const COUNT: usize = 40;
    const CLASSES: usize = 2;
    for count in [2, 3, 8] {
        let mut ranks = Ranks::new(make, count, CLASSES, 1);
        let all: Vec<_> = (0..count).collect();
        let message = |number: usize, from: usize, to: usize, class: usize| {
            let header = [number, from, to, class].map(|value| value.to_le_bytes()[0]);
            (header.to_vec(), pattern(number * 7 + from, number * 211))
        };
        for number in 0..COUNT {
            for from in 0..count {
                for to in (0..count).filter(|to| *to != from) {
                    for class in 0..CLASSES {
                        let (header, body) = message(number, from, to, class);
                        send(&*ranks.ends[from][class], to, &header, &body).expect("little is under way");
                    }
                }
            }
        }
        ranks.poll_until(&all, "all messages", |ranks| {
            ranks.seen.iter().flatten().all(|seen| seen.len() >= COUNT * (count - 1))
        });
        ranks.linger(&all);
        for to in 0..count {
            for class in 0..CLASSES {
                for from in (0..count).filter(|from| *from != to) {
                    let got = ranks.seen[to][class]
                        .iter()
                        .filter(|seen| matches!(seen, Seen::Message(rank, ..) if usize::from(rank.0) == from));
                    let expected = (0..COUNT).map(|number| {
                        let (header, body) = message(number, from, to, class);
                        Seen::Message(rank(from), header, body)
                    });
                    assert!(got.cloned().eq(expected), "rank {from} to rank {to}, class {class}, {count} ranks");
                }
                assert_eq!(ranks.seen[to][class].len(), COUNT * (count - 1));
            }
        }
    }
}

/// Headers and bodies of 0, 1, and the most bytes.
pub fn messages_of_every_size_at_the_limits_arrive_and_longer_ones_are_not_sent(make: Make) {
    let mut ranks = Ranks::new(make, 2, 1, 1);
    let most = ranks.end(0).capabilities().max_transfer;
    assert!(most <= MAX_BODY);
    let mut sent = Vec::new();
    for header in [0, 1, MAX_HEADER - 1, MAX_HEADER] {
        for body in [0, 1, 4096, most - 1, most] {
            let (header, body) = (pattern(1, header), pattern(2, body));
            send(ranks.end(0), 1, &header, &body).expect("only one is under way");
            sent.push(Seen::Message(Rank(0), header, body));
            ranks.poll_until(&[0, 1], "a message", |ranks| ranks.seen(1).len() == sent.len());
        }
    }
    assert_eq!(send(ranks.end(0), 1, &vec![0; MAX_HEADER + 1], &[]), Err(SendError::Bounds(MAX_HEADER + 1)));
    assert_eq!(send(ranks.end(0), 1, &[], &vec![0; most + 1]), Err(SendError::Bounds(most + 1)));
    ranks.linger(&[0, 1]);
    assert!(ranks.seen(1) == sent, "the messages are not those that were sent");
}

/// Pieces of many lengths, empty ones among them.
pub fn a_body_of_many_pieces_arrives_as_one(make: Make) {
    let mut ranks = Ranks::new(make, 2, 1, 1);
    for count in [0, 1, 2, 15, 16, 17, 18, 19, 20, 21, 256, 1500] {
        let pieces: Vec<_> = (0..count).map(|index| pattern(index, index * 13 % 600)).collect();
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        ranks.end(0).send(Rank(1), b"header", &slices).expect("only one is under way");
        ranks.poll_until(&[0, 1], "the message", |ranks| !ranks.seen(1).is_empty());
        let expected = Seen::Message(Rank(0), b"header".to_vec(), pieces.concat());
        assert!(ranks.seen[1][0].drain(..).eq([expected]), "{count} pieces");
    }
}

/// Sends again and again until there is room.
fn send_patiently(end: &dyn Transport, to: usize, header: &[u8], body: &[u8]) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = send(end, to, header, body) {
        assert_eq!(error, SendError::Full(rank(to)));
        assert!(Instant::now() < deadline, "rank {to} stays full");
        thread::yield_now();
    }
}

/// Threads of one rank beside the one that polls: the messages of each stay in order.
pub fn many_threads_send_at_once(make: Make) {
    const THREADS: usize = 4;
    const COUNT: usize = 300;
    let mut ranks = Ranks::new(make, 2, 1, 1);
    let receivers = ranks.ends.pop().expect("two ranks");
    let body = |thread: usize, number: usize| pattern(thread * 1000 + number, number * 97 % 20_000);
    let mut got = Vec::new();
    thread::scope(|scope| {
        let end = ranks.end(0);
        for thread in 0..THREADS {
            scope.spawn(move || {
                for number in 0..COUNT {
                    let header = [thread.to_le_bytes(), number.to_le_bytes()].concat();
                    send_patiently(end, 1, &header, &body(thread, number));
                }
            });
        }
        let deadline = Instant::now() + PATIENCE;
        while got.len() < THREADS * COUNT {
            end.poll(&mut |event| panic!("rank 0 was sent {event:?}"));
            receivers[0].poll(&mut |event| got.push(Seen::new(event)));
            assert!(Instant::now() < deadline, "only {} messages came", got.len());
        }
    });
    for thread in 0..THREADS {
        let mine = got
            .iter()
            .filter(|seen| matches!(seen, Seen::Message(_, header, _) if header.starts_with(&thread.to_le_bytes())));
        let expected = (0..COUNT).map(|number| {
            Seen::Message(Rank(0), [thread.to_le_bytes(), number.to_le_bytes()].concat(), body(thread, number))
        });
        assert!(mine.cloned().eq(expected), "thread {thread}");
    }
}

/// Sends messages to a rank that does not poll, until no more are taken; says how many were.
fn fill(end: &dyn Transport, to: usize, length: usize) -> usize {
    let deadline = Instant::now() + PATIENCE;
    for number in 0_usize.. {
        match send(end, to, &number.to_le_bytes(), &pattern(number, length)) {
            Ok(()) => assert!(Instant::now() < deadline, "{number} messages and no back-pressure"),
            Err(error) => {
                assert_eq!(error, SendError::Full(rank(to)));
                return number;
            }
        }
    }
    0
}

/// With short and with long messages.
pub fn back_pressure_appears_and_clears_and_nothing_is_lost(make: Make) {
    for length in [200, 4096, 300_000] {
        let mut ranks = Ranks::new(make, 2, 1, 1);
        for _ in 0..2 {
            let count = fill(ranks.end(0), 1, length);
            assert!(count > 0);
            ranks.poll_until(&[0, 1], "what was taken", |ranks| ranks.seen(1).len() == count);
            let expected =
                (0..count).map(|number| Seen::Message(Rank(0), number.to_le_bytes().to_vec(), pattern(number, length)));
            assert!(ranks.seen[1][0].drain(..).eq(expected), "messages of {length} bytes");
        }
    }
}

/// One rank that does not poll.
pub fn a_full_peer_or_class_holds_up_no_other(make: Make) {
    let mut ranks = Ranks::new(make, 3, 2, 1);
    let count = fill(ranks.end(0), 1, 10_000);
    send(ranks.end(0), 2, b"to another rank", &[]).expect("rank 2 is not full");
    send(&*ranks.ends[0][1], 1, b"in another class", &[]).expect("class 1 is not full");
    ranks.poll_until(&[0, 2], "the message to rank 2", |ranks| ranks.seen(2).len() == 1);
    let other = |ranks: &mut Ranks| ranks.ends[1][1].poll(&mut |event| ranks.seen[1][1].push(Seen::new(event)));
    let deadline = Instant::now() + PATIENCE;
    while ranks.seen[1][1].is_empty() {
        other(&mut ranks);
        assert!(Instant::now() < deadline, "class 1 is held up by class 0");
    }
    ranks.poll_until(&[0, 1], "the rest", |ranks| ranks.seen(1).len() == count);
}

/// For every kind of operation.
pub fn this_rank_and_unknown_ranks_are_no_peers(make: Make) {
    let mut ranks = Ranks::new(make, 2, 1, 1);
    let end = ranks.end(0);
    for rank in [0, 2, 64, u16::MAX].map(Rank) {
        let (id, wrong) = (OperationId(1), Err(SendError::NoPeer(rank)));
        assert_eq!(end.send(rank, &[], &[]), wrong);
        assert_eq!(end.get(id, rank, 0, 8), wrong);
        assert_eq!(end.put(id, rank, 0, &[1]), wrong);
        assert_eq!(end.compare_and_swap(id, rank, 0, 0, 1), wrong);
        assert_eq!(end.fetch_and_add(id, rank, 0, 1), wrong);
    }
    ranks.linger(&[0, 1]);
    assert_eq!(ranks.seen, [[[]], [[]]]);
}

/// What is sent in a class is received in that class.
pub fn classes_are_apart(make: Make) {
    let mut ranks = Ranks::new(make, 2, 3, 1);
    for (class, end) in ranks.ends[1].iter().enumerate() {
        send(&**end, 0, &class.to_le_bytes(), &[]).expect("nothing is under way");
    }
    ranks.poll_until(&[0, 1], "the messages", |ranks| ranks.seen[0].iter().all(|seen| !seen.is_empty()));
    ranks.linger(&[0, 1]);
    for class in 0..3_usize {
        assert_eq!(ranks.seen[0][class], [Seen::Message(Rank(1), class.to_le_bytes().to_vec(), Vec::new())]);
    }
}

/// As the service threads do: a request is answered where it is received.
pub fn a_message_can_be_answered_from_within_a_poll(make: Make) {
    const COUNT: u8 = 100;
    let ranks = Ranks::new(make, 2, 1, 1);
    let (here, there) = (ranks.end(0), ranks.end(1));
    let mut done = 0;
    send(here, 1, &[0], &[]).expect("nothing is under way");
    let deadline = Instant::now() + PATIENCE;
    while done < COUNT {
        there.poll(&mut |event| {
            let Event::Message { header, .. } = event else { panic!("{event:?}") };
            assert!(!there.poll(&mut |event| panic!("{event:?} from a poll within a poll")));
            send(there, 0, header, &[9; 4096]).expect("only one is under way");
        });
        here.poll(&mut |event| {
            let Event::Message { header, body, .. } = event else { panic!("{event:?}") };
            assert_eq!((header, body), (slice::from_ref(&done), &[9; 4096][..]));
            done += 1;
            send(here, 1, &[done], &[]).expect("only one is under way");
        });
        assert!(Instant::now() < deadline, "only {done} answers came");
    }
}

/// Not readable while nothing happens; readable when something comes.
pub fn an_endpoint_can_be_slept_on(make: Make) {
    let mut ranks = Ranks::new(make, 2, 1, 1);
    ranks.linger(&[0, 1]);
    assert!(!sleep_on(ranks.end(1), Duration::ZERO), "readable, though nothing has come");
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| sleep_on(ranks.end(1), PATIENCE));
        send(ranks.end(0), 1, b"wake up", &[]).expect("nothing is under way");
        assert!(sleeper.join().expect("the sleeper"), "a message wakes nobody");
    });
    ranks.poll_until(&[1], "the message", |ranks| ranks.seen(1).len() == 1);
    while ranks.poll(1) {}
    assert!(!sleep_on(ranks.end(1), Duration::ZERO), "readable, though all was taken");
}

/// A thread that sends fills the way while the one that polls sleeps: it must wake when there is room, without anything received.
pub fn what_is_queued_goes_out_while_its_sender_sleeps(make: Make) {
    let mut ranks = Ranks::new(make, 2, 1, 1);
    ranks.linger(&[0, 1]);
    let count = thread::scope(|scope| scope.spawn(|| fill(ranks.end(0), 1, 100_000)).join().expect("the sender"));
    let deadline = Instant::now() + PATIENCE;
    while ranks.seen(1).len() < count {
        while ranks.poll(1) {}
        // The sleep ends because there is room for more, and only then is there anything to poll for.
        if ranks.seen(1).len() < count && sleep_on(ranks.end(0), Duration::from_millis(500)) {
            ranks.poll(0);
        }
        assert!(Instant::now() < deadline, "{} of {count} messages came", ranks.seen(1).len());
    }
}

/// Each sleeps until the other's message comes, again and again: whenever it comes, before, while or after its receiver falls asleep, it is noticed.
pub fn two_that_sleep_wake_each_other(make: Make) {
    const ROUNDS: usize = 200;
    let ranks = Ranks::new(make, 2, 1, 1);
    let play = |own: usize| {
        let end = ranks.end(own);
        let (mut got, mut unnoticed) = (0, 0);
        for round in 0..ROUNDS {
            if round % 2 == own {
                send(end, 1 - own, &[], b"your turn").expect("only one is under way");
                continue;
            }
            let (before, deadline) = (got, Instant::now() + PATIENCE);
            let mut readable = true;
            loop {
                while end.poll(&mut |event| got += usize::from(matches!(event, Event::Message { .. }))) {}
                if got > before {
                    unnoticed += usize::from(!readable);
                    break;
                }
                assert!(Instant::now() < deadline, "round {round}");
                readable = sleep_on(end, end.poll_within());
            }
        }
        unnoticed
    };
    let unnoticed = thread::scope(|scope| {
        let other = scope.spawn(|| play(1));
        play(0) + other.join().expect("the other player")
    });
    assert_eq!(unnoticed, 0, "messages that woke nobody");
}
