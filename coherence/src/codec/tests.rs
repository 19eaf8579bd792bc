//! What is read is what was written; everything else is refused.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Read), Just(Access::Write)]
}

fn keep() -> impl Strategy<Value = Keep> {
    prop_oneof![Just(Keep::Nothing), Just(Keep::Shared)]
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![Just(Content::Data), Just(Content::Zero), Just(Content::Current)]
}

fn page() -> impl Strategy<Value = Page> {
    any::<u32>().prop_map(Page)
}

fn run() -> impl Strategy<Value = Run> {
    (1..=MAX_RUN)
        .prop_flat_map(|count| (0..=u32::MAX - u32::from(count), Just(count)))
        .prop_map(|(first, count)| Run { first: Page(first), count })
}

fn version() -> impl Strategy<Value = Version> {
    any::<u64>().prop_map(Version)
}

fn acquire() -> impl Strategy<Value = Message> {
    let urgency = prop_oneof![Just(Urgency::Demand), Just(Urgency::Ahead)];
    (run(), access(), urgency, any::<bool>(), vec(version(), usize::from(MAX_RUN))).prop_map(
        |(run, access, urgency, has, mut have)| {
            have.truncate(if has { run.count.into() } else { 0 });
            Message::Acquire { run, access, urgency, have }
        },
    )
}

fn grant() -> impl Strategy<Value = Message> {
    let granted = (version(), content()).prop_map(|(version, content)| Granted { version, content });
    (run(), access(), vec(granted, usize::from(MAX_RUN))).prop_map(|(run, access, mut pages)| {
        pages.truncate(run.count.into());
        Message::Grant { first: run.first, access, pages }
    })
}

fn rank() -> impl Strategy<Value = Rank> {
    (0..MAX_RANKS).prop_map(Rank)
}

fn ranks() -> impl Strategy<Value = RankSet> {
    any::<u64>().prop_map(RankSet::from_bits)
}

fn requests() -> impl Strategy<Value = Message> {
    let waiting = (rank(), access(), version()).prop_map(|(from, access, have)| Waiting { from, access, have });
    (page(), any::<bool>(), vec(waiting, 1..=usize::from(MAX_RANKS)))
        .prop_map(|(page, is_begun, requests)| Message::Requests { page, is_begun, requests })
}

fn entries() -> impl Strategy<Value = Message> {
    let state = prop_oneof![
        Just(HandedState::Untouched),
        rank().prop_map(HandedState::Owned),
        ranks().prop_map(HandedState::Shared),
        rank().prop_map(HandedState::Recalling),
        ranks().prop_map(HandedState::Invalidating),
    ];
    let handed = (version(), state, content()).prop_map(|(version, state, content)| Handed { version, state, content });
    (run(), ranks(), vec(handed, 1..=usize::from(MAX_HAND_OVER_PAGES))).prop_map(|(run, gone, mut pages)| {
        pages.truncate(run.count.into());
        Message::Entries { first: run.first, gone, pages }
    })
}

fn hand_over() -> impl Strategy<Value = Message> {
    prop_oneof![
        (run(), rank(), ranks()).prop_map(|(run, to, members)| Message::HandOver { run, to, members }),
        (run(), rank(), ranks()).prop_map(|(run, to, members)| Message::Freeze { run, to, members }),
        run().prop_map(|run| Message::Frozen { run }),
        run().prop_map(|run| Message::Moved { run }),
        requests(),
        entries(),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        hand_over(),
        acquire(),
        grant(),
        run().prop_map(|run| Message::Refuse { run }),
        page().prop_map(|page| Message::Invalidate { page }),
        page().prop_map(|page| Message::InvalidateAck { page }),
        Just(Message::Leave),
        Just(Message::LeaveAck),
        (page(), keep()).prop_map(|(page, keep)| Message::Recall { page, keep }),
        (page(), version(), keep(), content()).prop_map(|(page, version, keep, content)| Message::WriteBack {
            page,
            version,
            keep,
            content
        }),
    ]
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn a_message_comes_back_as_it_was(message in message()) {
        let bytes = encoded(&message);
        prop_assert!(bytes.len() <= MAX_ENCODED);
        prop_assert_eq!(decode(&bytes), Ok(message));
    }

    #[test]
    fn a_message_that_is_cut_off_is_refused_wherever_that_is(message in message(), cut in any::<prop::sample::Index>()) {
        let bytes = encoded(&message);
        prop_assert_eq!(decode(&bytes[..cut.index(bytes.len())]), Err(DecodeError::Short));
    }

    #[test]
    fn bytes_after_a_message_are_refused(message in message(), more in vec(any::<u8>(), 1..20)) {
        let bytes = [encoded(&message), more.clone()].concat();
        prop_assert_eq!(decode(&bytes), Err(DecodeError::Long(more.len())));
    }

    #[test]
    fn what_is_read_from_any_bytes_is_written_as_the_same_bytes(
        mut bytes in vec(any::<u8>(), 0..64),
        kind in 0_u8..16,
    ) {
        // Nearly all bytes are refused for their first two.
        for (byte, value) in bytes.iter_mut().zip([VERSION, kind]) {
            *byte = value;
        }
        if let Ok(message) = decode(&bytes) {
            prop_assert_eq!(encoded(&message), bytes);
        }
    }

    #[test]
    fn a_changed_byte_is_refused_or_another_message(
        message in message(),
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let mut bytes = encoded(&message);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        match decode(&bytes) {
            Ok(other) => {
                prop_assert_ne!(&other, &message);
                prop_assert_eq!(encoded(&other), bytes);
            }
            Err(error) => prop_assert!(at != 0 || error == DecodeError::Version(bytes[0])),
        }
    }
}

/// The bytes of a message with some of them replaced from `at` on.
fn with(message: &Message, at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = encoded(message);
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn impossible_values_are_refused_field_by_field() {
    let run = Run { first: Page(5), count: 2 };
    let (access, urgency, have) = (Access::Read, Urgency::Demand, vec![Version(1); 2]);
    let acquire = Message::Acquire { run, access, urgency, have };
    let pages = vec![Granted { version: Version(1), content: Content::Data }];
    let grant = Message::Grant { first: Page(5), access: Access::Write, pages };
    let refuse = Message::Refuse { run };
    let recall = Message::Recall { page: Page(5), keep: Keep::Shared };
    let (version, keep, content) = (Version(1), Keep::Shared, Content::Zero);
    let write_back = Message::WriteBack { page: Page(5), version, keep, content };
    let (to, members) = (Rank(1), RankSet::below(3));
    let order = Message::HandOver { run, to, members };
    let waiting = Waiting { from: Rank(2), access, have: Version(0) };
    let requests = Message::Requests { page: Page(5), is_begun: true, requests: vec![waiting] };
    let handed = Handed { version: Version(1), state: HandedState::Owned(Rank(2)), content: Content::Data };
    let entries = Message::Entries { first: Page(5), gone: RankSet::EMPTY, pages: vec![handed] };
    let two_ranks = [3, 0, 0, 0, 0, 0, 0, 0];
    let last = (u32::MAX - 1).to_le_bytes();
    let too_many = (MAX_RUN + 1).to_le_bytes();
    let cases: &[(&Message, usize, &[u8], &'static str)] = &[
        (&acquire, 1, &[0], "kind of message"),
        (&acquire, 1, &[16], "kind of message"),
        (&acquire, 2, &last, "number of pages"),
        (&acquire, 6, &[0, 0], "number of pages"),
        (&acquire, 6, &too_many, "number of pages"),
        (&acquire, 8, &[2], "access"),
        (&acquire, 9, &[2], "urgency"),
        (&acquire, 10, &[1, 0], "number of versions"),
        (&acquire, 10, &[3, 0], "number of versions"),
        (&grant, 2, &[0xff; 4], "number of pages"),
        (&grant, 6, &[2], "access"),
        (&grant, 7, &[0, 0], "number of pages"),
        (&grant, 7, &too_many, "number of pages"),
        (&grant, 17, &[3], "content"),
        (&refuse, 6, &[0, 0], "number of pages"),
        (&refuse, 6, &too_many, "number of pages"),
        (&recall, 6, &[2], "keep"),
        (&write_back, 14, &[2], "keep"),
        (&write_back, 15, &[3], "content"),
        (&order, 6, &[0, 0], "number of pages"),
        (&order, 8, &[64, 0], "rank"),
        (&requests, 6, &[2], "flag"),
        (&requests, 7, &[0, 0], "number of requests"),
        (&requests, 7, &[65, 0], "number of requests"),
        (&requests, 9, &[64, 0], "rank"),
        (&requests, 11, &[2], "access"),
        (&entries, 14, &[0, 0], "number of pages"),
        (&entries, 14, &[129, 0], "number of pages"),
        (&entries, 24, &[0], "state"),
        (&entries, 24, &[5], "state"),
        (&entries, 25, &[0; 8], "state"),
        (&entries, 25, &two_ranks, "state"),
        (&entries, 33, &[3], "content"),
    ];
    for (message, at, new, field) in cases {
        assert_eq!(decode(&with(message, *at, new)), Err(DecodeError::Value(field)), "{message:?}, {new:?} at {at}");
    }
    assert_eq!(decode(&with(&recall, 0, &[VERSION + 1])), Err(DecodeError::Version(VERSION + 1)));
}

#[test]
fn the_longest_messages_fit() {
    let first = Page(u32::MAX - u32::from(MAX_RUN));
    let many = usize::from(MAX_RUN);
    let (version, content) = (Version(u64::MAX), Content::Data);
    let grant = Message::Grant { first, access: Access::Write, pages: vec![Granted { version, content }; many] };
    let run = Run { first, count: MAX_RUN };
    let have = vec![version; many];
    let acquire = Message::Acquire { run, access: Access::Write, urgency: Urgency::Demand, have };
    let state = HandedState::Shared(RankSet::below(MAX_RANKS));
    let pages = vec![Handed { version, state, content }; MAX_HAND_OVER_PAGES.into()];
    let entries = Message::Entries { first, gone: RankSet::EMPTY, pages };
    let waiting = Waiting { from: Rank(MAX_RANKS - 1), access: Access::Write, have: version };
    let requests = Message::Requests { page: first, is_begun: true, requests: vec![waiting; MAX_RANKS.into()] };
    for message in [grant, acquire, entries, requests] {
        let bytes = encoded(&message);
        assert!(bytes.len() <= MAX_ENCODED);
        assert_eq!(decode(&bytes), Ok(message));
    }
}

#[test]
fn the_bytes_of_a_message_are_these() {
    let have = vec![Version(0), Version(0x0102)];
    let run = Run { first: Page(0x0a0b_0c0d), count: 2 };
    let message = Message::Acquire { run, access: Access::Write, urgency: Urgency::Ahead, have };
    let expected =
        [VERSION, 1, 0x0d, 0x0c, 0x0b, 0x0a, 2, 0, 1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x01, 0, 0, 0, 0, 0, 0];
    assert_eq!(encoded(&message), expected);
}

#[test]
fn the_bytes_of_a_page_that_moves_are_these() {
    let state = HandedState::Invalidating(RankSet::from_bits(0x8000_0000_0000_0005));
    let handed = Handed { version: Version(0x0102), state, content: Content::Zero };
    let message = Message::Entries { first: Page(7), gone: RankSet::from_bits(6), pages: vec![handed] };
    let begin = [VERSION, 14, 7, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let page = [2, 1, 0, 0, 0, 0, 0, 0, 4, 5, 0, 0, 0, 0, 0, 0, 0x80, 1];
    let expected = [&begin[..], &page].concat();
    assert_eq!(encoded(&message), expected);
}
