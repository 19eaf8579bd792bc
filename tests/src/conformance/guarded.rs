//! Guarded reads: a mark and then bytes, in this order whatever the target's processors do meanwhile.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use vincs_coherence::id::{Page, Rank, Version};
use vincs_coherence::transport::{GuardedRead, OperationId, Segment, SendError, WordSegment};
use vincs_coherence::window::{BUSY, READ_BYTES, Seen as SeenWord, Word, hash};

use super::messages::pattern;
use super::{Make, PATIENCE, Ranks, Seen};

/// A word of the segment.
const WORD: usize = 8;

/// Bytes of a page, which is what such reads are for.
const PAGE: usize = 4096;

/// What one brings to rank 0 from rank 1, whoever refuses it.
fn read(ranks: &mut Ranks, read: GuardedRead) -> Seen {
    let id = OperationId(5);
    match ranks.end(0).guarded_read(id, Rank(1), read) {
        Ok(()) => {}
        Err(SendError::Bounds(_)) => return Seen::Refused(id),
        Err(error) => panic!("{error}"),
    }
    ranks.poll_until(&[0, 1], "the end of a guarded read", |ranks| !ranks.seen(0).is_empty());
    ranks.seen[0][0].remove(0)
}

/// The mark is put, nothing else is changed, and what is there is brought.
pub fn a_guarded_read_marks_and_brings_what_is_there(make: Make) {
    let mut ranks = Ranks::new(make, 2, 1, 4 + PAGE / WORD);
    let segment = ranks.segments[1][0].clone();
    let bytes = pattern(3, PAGE);
    segment.words()[0].store(77, Ordering::Release);
    assert!(segment.write(32, &bytes));
    for (mark_at, mark) in [(8, 1), (15, 2), (11, 0xff)] {
        let guarded = GuardedRead { mark_at, mark, at: 32, len: PAGE };
        assert_eq!(read(&mut ranks, guarded), Seen::Got(OperationId(5), bytes.clone()));
    }
    let mut marks = [0; 32];
    assert!(segment.read(0, &mut marks));
    let mut expected = [0; 32];
    (expected[0], expected[8], expected[15], expected[11]) = (77, 1, 2, 0xff);
    assert_eq!(marks, expected, "each mark is one byte");
    let short = GuardedRead { mark_at: 8, mark: 1, at: 33, len: 1 };
    assert_eq!(read(&mut ranks, short), Seen::Got(OperationId(5), bytes[1..2].to_vec()));
    assert_eq!(ranks.seen(1), [], "the target is told nothing");
}

/// Both the mark and the bytes have to be in the segment.
pub fn a_guarded_read_of_memory_that_is_not_there_is_refused(make: Make) {
    let mut ranks = Ranks::new(make, 2, 1, 4);
    let right = GuardedRead { mark_at: 31, mark: 1, at: 0, len: 32 };
    assert!(matches!(read(&mut ranks, right), Seen::Got(..)));
    let refused = [
        GuardedRead { mark_at: 32, ..right },
        GuardedRead { mark_at: u64::MAX, ..right },
        GuardedRead { at: 1, ..right },
        GuardedRead { at: 32, ..right },
        GuardedRead { at: u64::MAX, ..right },
        GuardedRead { len: 33, ..right },
        GuardedRead { len: 0, ..right },
        GuardedRead { len: usize::MAX, ..right },
    ];
    for guarded in refused {
        assert_eq!(read(&mut ranks, guarded), Seen::Refused(OperationId(5)), "{guarded:?}");
    }
}

/// As many as the transport takes, among other operations: each ends with its own result.
pub fn many_guarded_reads_are_under_way_at_once(make: Make) {
    const COUNT: u64 = 400;
    let mut ranks = Ranks::new(make, 2, 1, 64);
    for (value, word) in (0..).zip(ranks.segments[1][0].words()) {
        word.store(value, Ordering::Release);
    }
    let (mut begun, mut full) = (0, false);
    let deadline = Instant::now() + PATIENCE;
    while ranks.seen(0).len() < usize::try_from(2 * COUNT).expect("a small number") {
        while begun < COUNT {
            let at = 8 * (begun % 32);
            let guarded = GuardedRead { mark_at: 511, mark: 0, at: at + 8, len: 8 };
            if let Err(error) = ranks.end(0).guarded_read(OperationId(begun), Rank(1), guarded) {
                assert_eq!(error, SendError::Full(Rank(1)));
                full = true;
                break;
            }
            while ranks.end(0).get(OperationId(COUNT + begun), Rank(1), at, 8).is_err() {
                ranks.poll(0);
                ranks.poll(1);
            }
            begun += 1;
        }
        ranks.poll(0);
        ranks.poll(1);
        assert!(Instant::now() < deadline, "guarded reads are missing");
    }
    assert!(full, "a peer takes only so many at once");
    for number in 0..COUNT {
        let value = number % 32;
        let next = (value + 1).to_le_bytes().to_vec();
        let expected = Seen::Got(OperationId(number), next);
        assert_eq!(ranks.seen(0).iter().filter(|seen| **seen == expected).count(), 1, "guarded read {number}");
        let expected = Seen::Got(OperationId(COUNT + number), value.to_le_bytes().to_vec());
        assert_eq!(ranks.seen(0).iter().filter(|seen| **seen == expected).count(), 1, "get {number}");
    }
}

/// Words of the segment in which a page is shown: directory word, hash, page, and in a cache line of its own the mark.
const SHOWN: usize = READ_BYTES / WORD;
const MARK_AT: u64 = READ_BYTES.next_multiple_of(64) as u64;

/// The target's processor shows one version after the other, with the hash cleared meanwhile: what the hash vouches for is one of these.
pub fn what_the_hash_vouches_for_is_of_one_version(make: Make) {
    const READS: usize = 2000;
    let mut ranks = Ranks::new(make, 2, 1, SHOWN.next_multiple_of(8) + 8);
    let segment = ranks.segments[1][0].clone();
    let stop = AtomicBool::new(false);
    let mut whole = 0;
    thread::scope(|scope| {
        let writer = scope.spawn(|| show_again_and_again(&segment, &stop));
        for _ in 0..READS {
            let guarded = GuardedRead { mark_at: MARK_AT, mark: 1, at: 0, len: READ_BYTES };
            let Seen::Got(_, read) = read(&mut ranks, guarded) else { panic!("a guarded read") };
            let (seen, bytes) = SeenWord::parse(&read);
            if let Some(Version(version)) = seen.version_of(Page(0)) {
                whole += 1;
                let (words, _) = bytes.as_chunks::<WORD>();
                let other = words.iter().find(|word| u64::from_le_bytes(**word) != version);
                assert_eq!(other, None, "bytes of another version than {version}");
            }
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer");
    });
    assert!(whole > 0, "nothing was compared");
}

/// Versions of page 0 from 1 on, each in every word of the page.
fn show_again_and_again(segment: &WordSegment, stop: &AtomicBool) {
    let mut version: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        version += 1;
        let word = Word::shown(Page(0), Version(version)).expect("a low version");
        let bytes = version.to_le_bytes().repeat(PAGE / WORD);
        segment.words()[1].store(BUSY, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        assert!(segment.write((2 * WORD) as u64, &bytes));
        segment.words()[0].store(word.0, Ordering::Release);
        segment.words()[1].store(hash(word, &bytes), Ordering::Release);
        // As long as a reader may need.
        (0..version % 50).for_each(|_| thread::yield_now());
    }
}

/// The target's processor clears a word and looks for the mark then: who has seen the word as it was has been seen.
pub fn who_has_seen_the_word_has_marked_before(make: Make) {
    const ROUNDS: usize = 400;
    let mut ranks = Ranks::new(make, 2, 1, 3 * ROUNDS);
    let segment = ranks.segments[1][0].clone();
    (0..ROUNDS).for_each(|round| segment.words()[3 * round].store(9, Ordering::Release));
    let (mut hits, mut took) = (0, Duration::ZERO);
    for round in 0..ROUNDS {
        let at = 24 * round as u64;
        let guarded = GuardedRead { mark_at: at + 16, mark: 1, at, len: 16 };
        // From at once to about twice as long as the read takes.
        let delay = took * u32::try_from(round % 20).expect("a small number") / 10;
        let (seen, is_marked) = thread::scope(|scope| {
            let hider = scope.spawn(|| {
                let until = Instant::now() + delay;
                while Instant::now() < until {
                    thread::yield_now();
                }
                segment.words()[3 * round].store(0, Ordering::SeqCst);
                fence(Ordering::SeqCst);
                segment.words()[3 * round + 2].load(Ordering::SeqCst) != 0
            });
            let begun = Instant::now();
            let seen = read(&mut ranks, guarded);
            took = begun.elapsed();
            (seen, hider.join().expect("the hider"))
        });
        let Seen::Got(_, read) = seen else { panic!("a guarded read") };
        let is_hit = read[0] == 9;
        assert!(!is_hit || is_marked, "round {round}: a reader that was not seen");
        hits += usize::from(is_hit);
    }
    assert!(hits > 0, "no reader was before a hider");
}
