//! Peers that are silent, send garbage or break the limits: each is lost, with the reason. The peer here is a bare socket.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;
use vincs_coherence::transport::WordSegment;

use super::*;
use crate::frame::{PREFIX_BYTES, prefix};
use crate::outbound::MAX_QUEUED;

/// For tests that do not measure time.
const LONG: Duration = Duration::from_secs(30);

/// An endpoint of rank 0 with a segment of 1 MiB, and the bare socket that is rank 1.
fn endpoint(timing: Timing, first_sign: Duration) -> (TcpTransport, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let bare = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, address) = listener.accept().unwrap();
    let segment: Arc<dyn Segment> = Arc::new(WordSegment::new(MAX_BODY / 8));
    (TcpTransport::new(Rank(0), vec![None, Some((address, socket))], Some(segment), timing, first_sign).unwrap(), bare)
}

/// Polls until the peer is lost or the time is over; gives how many other events there were, and the reason.
fn poll_for(end: &TcpTransport, time: Duration) -> (usize, Option<String>) {
    let start = Instant::now();
    let (mut others, mut lost) = (0, None);
    while lost.is_none() && start.elapsed() < time {
        end.poll(&mut |event| match event {
            Event::Lost { rank, reason } => {
                assert_eq!(rank, Rank(1));
                assert_eq!(lost.replace(reason), None);
            }
            Event::Message { .. } | Event::Completed { .. } => others += 1,
        });
        thread::sleep(Duration::from_micros(100));
    }
    (others, lost)
}

/// What is made of a peer that sends this and goes on listening.
fn reason_for(bytes: &[u8]) -> String {
    let (end, mut bare) = endpoint(Timing::default(), LONG);
    bare.write_all(bytes).unwrap();
    let (_, lost) = poll_for(&end, LONG);
    // No event after the loss, and the peer is told by a closed connection.
    end.poll(&mut |event| panic!("{event:?} after the loss"));
    assert_eq!(end.send(Rank(1), &[], &[]), Err(SendError::Lost(Rank(1))));
    bare.set_read_timeout(Some(LONG)).unwrap();
    let _: io::Result<usize> = bare.read_to_end(&mut Vec::new());
    lost.unwrap()
}

#[test]
fn garbage_and_lengths_beyond_the_limits_lose_the_peer_with_the_reason() {
    let over = u32::try_from(MAX_BODY).unwrap() + 1;
    let [b0, b1, b2, b3] = over.to_le_bytes();
    for (bytes, word) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "unknown kind 71"),
        (&[0; 8], "unknown kind 0"),
        (&[2, 0, 0, 0, b0, b1, b2, b3], "a body of 1048577 bytes"),
        (&[2, 0, 1, 16, 0, 0, 0, 0], "a header of 4097 and"),
        (&[2, 0, 0, 0, 255, 255, 255, 255], "a body of 4294967295 bytes"),
        (&[2, 1, 0, 0, 0, 0, 0, 0], "1 where a zero belongs"),
        (&[7, 0, 0, 0, 0, 0, 0, 0], "an answer (Got) to nothing"),
        (&[10, 0, 0, 0, 0, 0, 0, 0], "an answer (Refused) to nothing"),
    ] {
        let reason = reason_for(bytes);
        assert!(reason.starts_with("127.0.0.1:") && reason.contains(word), "{reason}");
    }
    let get = [&prefix(Kind::Get, 16, 0).unwrap()[..], &header::<2, 16>([0, MAX_BODY as u64 + 1])].concat();
    assert!(reason_for(&get).contains("asked for 1048577 bytes at once"));
}

#[test]
fn an_answer_of_another_kind_or_length_loses_the_peer() {
    for (kind, header, body) in [(Kind::Got, 0, 7), (Kind::Got, 0, 9), (Kind::Done, 0, 0), (Kind::Old, 8, 0)] {
        let (end, mut bare) = endpoint(Timing::default(), LONG);
        end.get(OperationId(1), Rank(1), 0, 8).unwrap();
        bare.write_all(&[&prefix(kind, header, body).unwrap()[..], &vec![0; header + body]].concat()).unwrap();
        let (completed, lost) = poll_for(&end, LONG);
        assert!(lost.unwrap().contains("to nothing that was asked"));
        assert_eq!(completed, 0);
    }
}

#[test]
fn a_truncated_frame_is_told_from_a_closed_connection() {
    let frame = [&prefix(Kind::Message, 3, 5).unwrap()[..], b"hdrbody."].concat();
    for (length, messages, word) in [
        (frame.len(), 1, "was closed"),
        (frame.len() - 1, 0, "in the middle of a frame"),
        (PREFIX_BYTES - 1, 0, "in the middle of a frame"),
        (0, 0, "was closed"),
    ] {
        let (end, mut bare) = endpoint(Timing::default(), LONG);
        bare.write_all(&frame[..length]).unwrap();
        drop(bare);
        let (others, lost) = poll_for(&end, LONG);
        assert_eq!(others, messages);
        assert!(lost.unwrap().ends_with(word));
    }
}

#[test]
fn a_frame_may_come_byte_by_byte() {
    let (end, mut bare) = endpoint(Timing::default(), LONG);
    bare.set_nodelay(true).unwrap();
    for byte in [&prefix(Kind::Message, 3, 5).unwrap()[..], b"hdrbody."].concat() {
        end.poll(&mut |event| panic!("{event:?} before the frame is whole"));
        bare.write_all(&[byte]).unwrap();
    }
    let mut got = 0;
    end.poll(&mut |event| {
        assert_eq!(event, Event::Message { from: Rank(1), header: b"hdr", body: b"body." });
        got += 1;
    });
    assert_eq!(got, 1);
}

#[test]
fn a_peer_that_asks_without_taking_the_answers_is_lost_before_it_uses_up_the_memory() {
    let (end, mut bare) = endpoint(Timing::default(), LONG);
    let get = [&prefix(Kind::Get, 16, 0).unwrap()[..], &header::<2, 16>([0, MAX_BODY as u64])].concat();
    bare.set_nonblocking(true).unwrap();
    let start = Instant::now();
    let lost = loop {
        // Ends with an error once the connection is closed.
        let _: io::Result<()> = bare.write_all(&get);
        if let (_, Some(lost)) = poll_for(&end, Duration::from_millis(1)) {
            break lost;
        }
        assert!(start.elapsed() < LONG, "still there");
    };
    assert!(lost.contains("asked for more than it may"), "{lost}");
}

#[test]
fn gets_that_keep_the_limit_are_never_held_against_the_asker() {
    let (end, mut bare) = endpoint(Timing::default(), LONG);
    let (mut asked, whole) = (0, MAX_QUEUED / MAX_BODY);
    while end.get(OperationId(asked), Rank(1), 0, MAX_BODY).is_ok() {
        asked += 1;
    }
    assert_eq!(usize::try_from(asked).unwrap(), whole, "gets of the longest bodies at once");
    let get = [&prefix(Kind::Get, 16, 0).unwrap()[..], &header::<2, 16>([0, MAX_BODY as u64])].concat();
    bare.write_all(&get.repeat(whole)).unwrap();
    // Beside as many messages as are taken.
    while end.send(Rank(1), &[], &[IoSlice::new(&[0; 100_000])]).is_ok() {}
    assert_eq!(poll_for(&end, Duration::from_millis(200)), (0, None));
}

#[test]
fn a_silent_peer_is_lost_and_one_that_shows_signs_of_life_is_not() {
    let timing = Timing { sign_of_life: Duration::from_millis(200), silence: Duration::from_secs(1) };
    let (end, mut bare) = endpoint(timing, Duration::ZERO);
    let alive = prefix(Kind::Alive, 0, 0).unwrap();
    for _ in 0..10 {
        bare.write_all(&alive).unwrap();
        assert_eq!(poll_for(&end, timing.sign_of_life), (0, None));
    }
    let start = Instant::now();
    let (_, lost) = poll_for(&end, LONG);
    assert!(lost.unwrap().ends_with("silent for 1s"));
    // Sooner than from now on, as the last sign is older; later on a busy machine.
    assert!((timing.silence / 2..5 * timing.silence).contains(&start.elapsed()), "after {:?}", start.elapsed());
}

/// With the times of a real machine, but for what has passed of them already.
#[test]
fn a_silent_peer_is_lost_when_its_time_is_over_and_not_at_some_later_look() {
    let (end, _bare) = endpoint(Timing::default(), Duration::ZERO);
    let rest = Timing::default().interval() / 5;
    let now = Instant::now();
    let mut receiving = end.receiving.lock().unwrap();
    receiving.peers[1].as_mut().unwrap().silent_at = now + rest;
    receiving.next_look = now;
    drop(receiving);
    end.poll(&mut |event| panic!("{event:?} too early"));
    // As its user does who has nothing else to wait for.
    assert!(end.poll_within() <= rest, "not polled for {:?}", end.poll_within());
    thread::sleep(end.poll_within());
    let mut lost = 0;
    end.poll(&mut |event| lost += usize::from(matches!(event, Event::Lost { .. })));
    assert_eq!((lost, now.elapsed() >= rest), (1, true));
}

#[test]
fn an_idle_endpoint_shows_signs_of_life_in_time() {
    let timing = Timing { sign_of_life: Duration::from_millis(200), silence: LONG };
    let (end, mut bare) = endpoint(timing, LONG);
    let mut gaps = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        bare.set_nonblocking(true).unwrap();
        let mut frame = [0; PREFIX_BYTES];
        while bare.read_exact(&mut frame).is_err() {
            // As its user does who has nothing else to wait for.
            end.poll(&mut |_| {});
            assert!(end.poll_within() <= timing.sign_of_life);
            thread::sleep(end.poll_within());
            assert!(start.elapsed() < LONG);
        }
        assert_eq!(frame, prefix(Kind::Alive, 0, 0).unwrap());
        gaps.push(start.elapsed());
    }
    // The median, as a busy machine may hold up one or the other.
    gaps.sort_unstable();
    assert!(gaps[2] <= timing.sign_of_life * 3 / 2, "{gaps:?}");
}

#[test]
fn a_poller_that_works_for_long_shows_signs_of_life_from_within_its_work() {
    let timing = Timing { sign_of_life: Duration::from_millis(200), silence: Duration::from_secs(1) };
    let (end, mut bare) = endpoint(timing, LONG);
    bare.write_all(&prefix(Kind::Message, 0, 0).unwrap()).unwrap();
    bare.set_nonblocking(true).unwrap();
    let mut signs = Vec::new();
    let mut work = |event: Event<'_>| {
        assert!(matches!(event, Event::Message { .. }));
        let start = Instant::now();
        while start.elapsed() < timing.silence {
            end.sign_of_life();
            let mut frame = [0; PREFIX_BYTES];
            if bare.read_exact(&mut frame).is_ok() {
                assert_eq!(frame, prefix(Kind::Alive, 0, 0).unwrap());
                signs.push(Instant::now());
            }
        }
    };
    let deadline = Instant::now() + LONG;
    while !end.poll(&mut work) {
        assert!(Instant::now() < deadline);
    }
    // Each half of the time; a busy machine may hold up some of them.
    assert!((4..=11).contains(&signs.len()), "{} signs", signs.len());
}

#[test]
fn a_peer_may_take_longer_for_its_first_sign_of_life() {
    let timing = Timing { sign_of_life: Duration::from_millis(20), silence: Duration::from_millis(100) };
    let (end, _bare) = endpoint(timing, LONG);
    assert_eq!(poll_for(&end, 4 * timing.silence), (0, None));
}

#[test]
fn a_first_sign_of_life_is_due_once_all_are_known_to_be_connected() {
    let timing = Timing { sign_of_life: Duration::from_millis(20), silence: Duration::from_millis(100) };
    let (end, _bare) = endpoint(timing, LONG);
    assert_eq!(poll_for(&end, 2 * timing.silence), (0, None));
    end.expect_signs();
    let (_, lost) = poll_for(&end, LONG);
    assert!(lost.unwrap().contains("silent for"));
}

#[test]
fn peers_are_not_blamed_for_a_pause_of_ones_own() {
    let timing = Timing { sign_of_life: Duration::from_millis(200), silence: Duration::from_millis(800) };
    let (end, bare) = endpoint(timing, Duration::ZERO);
    assert_eq!(poll_for(&end, Duration::from_millis(10)), (0, None));
    thread::sleep(2 * timing.silence);
    let start = Instant::now();
    end.poll(&mut |event| panic!("{event:?} at once"));
    let (_, lost) = poll_for(&end, LONG);
    assert!(start.elapsed() >= timing.silence, "blamed after {:?}", start.elapsed());
    assert!(lost.unwrap().contains("silent"));
    drop(bare);
}

#[test]
fn what_came_during_a_pause_counts() {
    let timing = Timing { sign_of_life: Duration::from_millis(200), silence: Duration::from_millis(800) };
    let (end, mut bare) = endpoint(timing, Duration::ZERO);
    assert_eq!(poll_for(&end, Duration::from_millis(10)), (0, None));
    bare.write_all(&[&prefix(Kind::Message, 0, 1).unwrap()[..], b"x"].concat()).unwrap();
    thread::sleep(2 * timing.silence);
    let start = Instant::now();
    let (others, lost) = poll_for(&end, LONG);
    assert_eq!(others, 1);
    assert!(lost.is_some() && start.elapsed() >= timing.silence, "blamed after {:?}", start.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_end_in_a_loss_and_nothing_worse(frames in vec((0..12_u8, vec(any::<u8>(), 0..40)), 0..20)) {
        let (end, mut bare) = endpoint(Timing::default(), LONG);
        for (kind, bytes) in frames {
            let [a, b, ..] = bytes[..] else { continue };
            // Small lengths, so that many are whole frames. The endpoint may have hung up already.
            let _: io::Result<()> = bare.write_all(&[&[kind, 0, a % 32, 0, b % 32, 0, 0, 0], &bytes[..]].concat());
        }
        drop(bare);
        let (_, lost) = poll_for(&end, LONG);
        prop_assert!(lost.is_some());
    }
}
