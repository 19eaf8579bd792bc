//! One-sided operations: get, put, compare-and-swap, fetch-and-add, capabilities.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{OperationId, PutList, RUN_BYTES, Segment, SendError, Transport, WordSegment};

use super::messages::{pattern, sleep_on};
use super::{Make, PATIENCE, Ranks, Seen, rank, send};

/// Starts an operation and polls all until it has ended. An operation that cannot be started because of bounds counts as refused.
fn run(ranks: &mut Ranks, start: impl FnOnce(&dyn Transport, OperationId) -> Result<(), SendError>) -> Seen {
    let id = OperationId(77);
    match start(ranks.end(0), id) {
        Ok(()) => {}
        Err(SendError::Bounds(_)) => return Seen::Refused(id),
        Err(error) => panic!("{error}"),
    }
    let all: Vec<_> = (0..ranks.ends.len()).collect();
    ranks.poll_until(&all, "the end of an operation", |ranks| !ranks.seen(0).is_empty());
    let seen = ranks.seen[0][0].remove(0);
    assert_eq!(ranks.seen(0), []);
    seen
}

/// The word of a segment.
fn word(segment: &WordSegment, index: usize) -> u64 {
    segment.words()[index].load(Ordering::Acquire)
}

/// Each once, on the segment of the target and no other.
pub fn operations_do_what_they_say(make: Make) {
    let (id, to) = (OperationId(77), Rank(2));
    let mut ranks = Ranks::new(make, 3, 1, 16);
    ranks.segments[2][0].words()[3].store(5, Ordering::Release);
    assert_eq!(run(&mut ranks, |end, id| end.get(id, to, 24, 8)), Seen::Got(id, 5_u64.to_le_bytes().to_vec()));
    assert_eq!(run(&mut ranks, |end, id| end.put(id, to, 32, &7_u64.to_le_bytes())), Seen::Put(id));
    assert_eq!(word(&ranks.segments[2][0], 4), 7, "a put that is done is in the memory");
    assert_eq!(run(&mut ranks, |end, id| end.compare_and_swap(id, to, 24, 6, 9)), Seen::Old(id, 5));
    assert_eq!(word(&ranks.segments[2][0], 3), 5, "what was not expected is not replaced");
    assert_eq!(run(&mut ranks, |end, id| end.compare_and_swap(id, to, 24, 5, u64::MAX)), Seen::Old(id, 5));
    assert_eq!(run(&mut ranks, |end, id| end.fetch_and_add(id, to, 24, 3)), Seen::Old(id, u64::MAX));
    assert_eq!(word(&ranks.segments[2][0], 3), 2, "additions wrap around");
    let untouched = |segment: &WordSegment| segment.words().iter().all(|word| word.load(Ordering::Acquire) == 0);
    assert!(untouched(&ranks.segments[0][0]) && untouched(&ranks.segments[1][0]));
    assert_eq!(ranks.seen[2][0], [], "the target is told nothing");
}

/// Lengths from nothing to the most, at odd places.
pub fn bytes_of_every_length_and_place_are_copied(make: Make) {
    let id = OperationId(77);
    let mut ranks = Ranks::new(make, 2, 1, (1 << 20) / 8 + 2);
    let most = ranks.end(0).capabilities().max_transfer;
    for (offset, length) in [(0, 0), (16, 1), (3, 5), (5, 11), (8, 4096), (13, 65_537), (7, most), (16, most)] {
        let bytes = pattern(length, length);
        assert_eq!(run(&mut ranks, |end, id| end.put(id, Rank(1), offset, &bytes)), Seen::Put(id));
        let mut there = vec![0; length];
        assert!(ranks.segments[1][0].read(offset, &mut there));
        assert!(there == bytes, "a put of {length} bytes at {offset}");
        let got = run(&mut ranks, |end, id| end.get(id, Rank(1), offset, length));
        assert!(got == Seen::Got(id, bytes), "a get of {length} bytes at {offset}");
    }
    for length in [most + 1, usize::MAX] {
        assert_eq!(ranks.end(0).get(id, Rank(1), 0, length), Err(SendError::Bounds(length)));
    }
    assert_eq!(ranks.end(0).put(id, Rank(1), 0, &vec![0; most + 1]), Err(SendError::Bounds(most + 1)));
}

/// At the end of the segment and far beyond it.
pub fn memory_that_is_not_there_is_refused(make: Make) {
    let id = OperationId(77);
    let mut ranks = Ranks::new(make, 2, 1, 4);
    assert_eq!(run(&mut ranks, |end, id| end.get(id, Rank(1), 24, 8)), Seen::Got(id, vec![0; 8]));
    for offset in [25, 32, 40, u64::MAX - 8, u64::MAX - 7, u64::MAX] {
        assert_eq!(run(&mut ranks, |end, id| end.get(id, Rank(1), offset, 8)), Seen::Refused(id));
        assert_eq!(run(&mut ranks, |end, id| end.put(id, Rank(1), offset, &[1; 8])), Seen::Refused(id));
        assert_eq!(run(&mut ranks, |end, id| end.compare_and_swap(id, Rank(1), offset, 0, 1)), Seen::Refused(id));
        assert_eq!(run(&mut ranks, |end, id| end.fetch_and_add(id, Rank(1), offset, 1)), Seen::Refused(id));
    }
    assert_eq!(run(&mut ranks, |end, id| end.put(id, Rank(1), 0, &[1; 33])), Seen::Refused(id));
    assert!((0..4).all(|index| word(&ranks.segments[1][0], index) == 0), "a refused operation has written");
    assert_eq!(run(&mut ranks, |end, id| end.put(id, Rank(1), 0, &[1; 32])), Seen::Put(id));
}

/// Many runs by one operation, next to each other and apart, up to the longest list; and nothing by a transport that does not declare it.
pub fn lists_of_puts_are_put_where_they_are_declared(make: Make) {
    let id = OperationId(77);
    let mut ranks = Ranks::new(make, 2, 1, (1 << 20) / 8);
    let capabilities = ranks.end(0).capabilities();
    let mut list = PutList::default();
    for at in 0..1000_usize {
        assert!(list.push(at as u64 * 37, &pattern(at, at % 38)));
    }
    let put = run(&mut ranks, |end, id| end.put_list(id, Rank(1), &list));
    if !capabilities.put_lists {
        assert_eq!(put, Seen::Refused(id));
        assert!((0..5000).all(|index| word(&ranks.segments[1][0], index) == 0), "a refused operation has written");
        return;
    }
    assert_eq!(put, Seen::Put(id));
    let mut expected = vec![0; 1000 * 37];
    for at in 0..1000 {
        expected.iter_mut().skip(at * 37).zip(pattern(at, at % 38)).for_each(|(to, byte)| *to = byte);
    }
    let mut there = vec![0; expected.len()];
    assert!(ranks.segments[1][0].read(0, &mut there));
    assert!(there == expected, "the runs of a list");

    let longest = capabilities.max_transfer - RUN_BYTES;
    list.clear();
    assert!(list.push(16, &pattern(5, longest)) && !list.push(0, &[]));
    assert_eq!(run(&mut ranks, |end, id| end.put_list(id, Rank(1), &list)), Seen::Put(id));
    there.resize(longest, 0);
    assert!(ranks.segments[1][0].read(16, &mut there));
    assert!(there == pattern(5, longest), "the longest run of a list");

    list.clear();
    assert_eq!(run(&mut ranks, |end, id| end.put_list(id, Rank(1), &list)), Seen::Put(id), "an empty list");
    assert!(list.push(1 << 20, &[1]));
    assert_eq!(run(&mut ranks, |end, id| end.put_list(id, Rank(1), &list)), Seen::Refused(id));
}

/// Words that are not at a multiple of 8 are none.
pub fn words_must_be_aligned(make: Make) {
    let id = OperationId(77);
    let mut ranks = Ranks::new(make, 2, 1, 4);
    for offset in [1, 2, 4, 7, 9, 12] {
        assert_eq!(run(&mut ranks, |end, id| end.compare_and_swap(id, Rank(1), offset, 0, 1)), Seen::Refused(id));
        assert_eq!(run(&mut ranks, |end, id| end.fetch_and_add(id, Rank(1), offset, 1)), Seen::Refused(id));
    }
    assert!((0..4).all(|index| word(&ranks.segments[1][0], index) == 0));
    assert_eq!(run(&mut ranks, |end, id| end.fetch_and_add(id, Rank(1), 8, 1)), Seen::Old(id, 0));
}

/// Operations of a class reach the segment of that class.
pub fn segments_of_classes_are_apart(make: Make) {
    let mut ranks = Ranks::new(make, 2, 3, 4);
    for (class, end) in (1..).zip(&ranks.ends[0]) {
        end.fetch_and_add(OperationId(class), Rank(1), 8, class).expect("nothing is under way");
    }
    ranks.poll_until(&[0, 1], "the operations", |ranks| ranks.seen[0].iter().all(|seen| !seen.is_empty()));
    for (id, class) in (1..).zip(0..3) {
        assert_eq!(ranks.seen[0][class], [Seen::Old(OperationId(id), 0)]);
        assert_eq!(word(&ranks.segments[1][class], 1), id);
        assert_eq!(word(&ranks.segments[0][class], 1), 0);
    }
}

/// From several ranks at once: no addition gets lost, and of swaps from one value exactly one succeeds.
pub fn concurrent_additions_and_swaps_add_up(make: Make) {
    const COUNT: u64 = 50;
    let mut ranks = Ranks::new(make, 4, 1, 2);
    for number in 0..COUNT {
        for from in 1..4_u64 {
            let end = ranks.end(usize::try_from(from).expect("a small number"));
            end.fetch_and_add(OperationId(number), Rank(0), 0, 1).expect("few are under way");
            end.compare_and_swap(OperationId(COUNT + number), Rank(0), 8, number, number + 1)
                .expect("few are under way");
        }
        let count = usize::try_from(2 * (number + 1)).expect("a small number");
        ranks.poll_until(&[0, 1, 2, 3], "the operations", |ranks| (1..4).all(|rank| ranks.seen(rank).len() == count));
    }
    assert_eq!(word(&ranks.segments[0][0], 0), 3 * COUNT);
    assert_eq!(word(&ranks.segments[0][0], 1), COUNT);
    let olds = (1..4)
        .flat_map(|rank| ranks.seen(rank))
        .filter_map(|seen| if let Seen::Old(OperationId(..COUNT), old) = seen { Some(*old) } else { None });
    let mut olds: Vec<_> = olds.collect();
    olds.sort_unstable();
    assert!(olds.into_iter().eq(0..3 * COUNT), "each addition found another value");
    for number in 0..COUNT {
        let won = |rank: &usize| ranks.seen(*rank).contains(&Seen::Old(OperationId(COUNT + number), number));
        assert_eq!((1..4).filter(won).count(), 1, "swaps from {number}");
    }
}

/// How an operation is started.
type Start = fn(&dyn Transport, OperationId) -> Result<(), SendError>;

/// Each is what the transport does.
pub fn capabilities_are_true(make: Make) {
    let mut ranks = Ranks::new(make, 2, 1, 2);
    let capabilities = ranks.end(0).capabilities();
    assert!(!capabilities.name.is_empty());
    assert_eq!(capabilities, ranks.end(1).capabilities());
    let get: Start = |end, id| end.get(id, Rank(1), 8, 8);
    let add: Start = |end, id| end.fetch_and_add(id, Rank(1), 0, 1);
    for (start, by_nic) in [(get, capabilities.one_sided_by_nic), (add, capabilities.atomics_by_nic)] {
        for number in 0..capabilities.max_operations as u64 {
            assert_eq!(start(ranks.end(0), OperationId(number)), Ok(()), "operation {number}");
        }
        assert_eq!(start(ranks.end(0), OperationId(0)), Err(SendError::Full(Rank(1))));
        // With a NIC that does them they end without the target's attention, and only then.
        let deadline = Instant::now() + if by_nic { PATIENCE } else { Duration::from_millis(50) };
        while ranks.seen(0).len() < capabilities.max_operations && Instant::now() < deadline {
            ranks.poll(0);
        }
        assert_eq!(ranks.seen(0).len(), if by_nic { capabilities.max_operations } else { 0 });
        ranks.poll_until(&[0, 1], "all operations", |ranks| ranks.seen(0).len() == capabilities.max_operations);
        ranks.seen[0][0].clear();
    }
    assert_eq!(word(&ranks.segments[1][0], 0), capabilities.max_operations as u64);
    assert_eq!(add(ranks.end(0), OperationId(0)), Ok(()), "there is room again");
}

/// Both ways at once, with long ones among them: each ends once with its own result.
pub fn operations_and_messages_share_a_connection(make: Make) {
    const COUNT: usize = 24;
    const LONG: usize = 500_000;
    let mut ranks = Ranks::new(make, 2, 1, LONG / 8);
    for (own, segment) in ranks.segments.iter().enumerate() {
        assert!(segment[0].write(0, &pattern(own, LONG)));
    }
    let (mut sent, mut asked) = ([0; 2], [0; 2]);
    // Made once for each, however often it is not taken.
    let message = |n: usize| pattern(n, LONG - n);
    let mut next = [message(0), message(0)];
    let deadline = Instant::now() + PATIENCE;
    let done = |ranks: &Ranks| ranks.seen.iter().all(|seen| seen[0].len() == 2 * COUNT);
    while !done(&ranks) {
        for own in 0..2 {
            let other = 1 - own;
            if sent[own] < COUNT && send(ranks.end(own), other, &[], &next[own]).is_ok() {
                sent[own] += 1;
                next[own] = message(sent[own]);
            }
            let id = OperationId(asked[own] as u64);
            if asked[own] < COUNT && ranks.end(own).get(id, rank(other), 0, LONG - asked[own]).is_ok() {
                asked[own] += 1;
            }
            ranks.poll(own);
        }
        assert!(Instant::now() < deadline, "operations or messages are missing");
    }
    for own in 0..2 {
        let other = 1 - own;
        let messages = ranks.seen(own).iter().filter(|seen| matches!(seen, Seen::Message(..)));
        let expected = (0..COUNT).map(|n| Seen::Message(rank(other), Vec::new(), message(n)));
        assert!(messages.cloned().eq(expected), "messages to rank {own}");
        for asked in 0..COUNT {
            let mut expected = pattern(other, LONG);
            expected.truncate(LONG - asked);
            let expected = Seen::Got(OperationId(asked as u64), expected);
            assert_eq!(ranks.seen(own).iter().filter(|seen| **seen == expected).count(), 1, "get {asked}");
        }
    }
}

/// Who has started nothing itself but polls for the one that has need not do so all the time.
pub fn the_end_of_an_operation_wakes_who_sleeps(make: Make) {
    let mut ranks = Ranks::new(make, 2, 1, 1);
    ranks.linger(&[0, 1]);
    let woken = thread::scope(|scope| {
        let sleeper = scope.spawn(|| sleep_on(ranks.end(0), PATIENCE));
        ranks.end(0).get(OperationId(1), Rank(1), 0, 8).expect("nothing is under way");
        while !sleeper.is_finished() {
            ranks.end(1).poll(&mut |event| panic!("the target was told {event:?}"));
        }
        sleeper.join().expect("the sleeper")
    });
    assert!(woken);
    ranks.poll_until(&[0, 1], "the end of the operation", |ranks| ranks.seen(0).len() == 1);
    assert_eq!(ranks.seen(0), [Seen::Got(OperationId(1), vec![0; 8])]);
}
