//! What is cut comes together again; garbage is a fault; slots are neither lost nor made.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A message in slots of the real size, without credits.
fn cut(header: &[u8], body: &[&[u8]]) -> Vec<Vec<u8>> {
    let length = body.iter().map(|piece| piece.len()).sum();
    let prefix = prefix(header.len(), length).unwrap();
    let mut pieces = Pieces::new([&prefix[..], header].into_iter().chain(body.iter().copied()));
    let slot = |_| {
        let mut slot = vec![0; SLOT_BYTES];
        let filled = pieces.fill(&mut slot);
        slot.truncate(filled);
        slot
    };
    (0..slots(header.len(), length)).map(slot).collect()
}

/// What comes out of slots.
fn through(slots: &[Vec<u8>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut out = Vec::new();
    let mut assembler = Assembler::default();
    for slot in slots {
        let (credits, content, bytes) = open(slot).unwrap();
        assert_eq!(content, Content::Message);
        assert_eq!(credits, 0);
        assembler.take(bytes, |header, body| out.push((header.to_vec(), body.to_vec()))).unwrap();
    }
    out
}

#[test]
fn the_longest_message_comes_out_and_a_page_takes_one_slot() {
    let (header, body) = (vec![1; MAX_HEADER], vec![2; MAX_BODY]);
    let slots = cut(&header, &[&body]);
    assert_eq!(slots.len(), MAX_SLOTS);
    assert_eq!(through(&slots), [(header, body)]);
    assert_eq!(cut(&[3; 500], &[&[4; 4096]]).len(), 1);
    assert_eq!((prefix(MAX_HEADER + 1, 0), prefix(0, MAX_BODY + 1)), (None, None));
}

#[test]
fn what_is_no_slot_or_no_message_is_a_fault() {
    let take = |bytes: &[u8]| Assembler::default().take(bytes, |_, _| panic!("a message in {bytes:?}"));
    assert_eq!(open(&[1, 2, 3]), Err(StreamFault::Head(3)));
    assert_eq!(open(&[1, 0, 2, 0]), Err(StreamFault::Content(2)));
    assert_eq!(open(&[1, 0, 0, 1]), Err(StreamFault::Content(256)));
    assert_eq!(open(&[1, 0, 1, 0, 7]), Ok((1, Content::Atomics, &[7][..])));
    assert_eq!(open(&[1, 2, 0, 0]), Ok((513, Content::Message, &[][..])));
    assert_eq!(take(&[0; 7]), Err(StreamFault::Prefix(7)));
    assert_eq!(take(&[0, 0, 9, 0, 0, 0, 0, 0]), Err(StreamFault::Reserved(9)));
    assert_eq!(take(&[1, 16, 0, 0, 0, 0, 0, 0]), Err(StreamFault::Lengths { header: 4097, body: 0 }));
    assert_eq!(take(&[0, 0, 0, 0, 1, 0, 16, 0]), Err(StreamFault::Lengths { header: 0, body: MAX_BODY + 1 }));
    assert_eq!(take(&[0, 0, 0, 0, 1, 0, 0, 0, 7, 8]), Err(StreamFault::TooMuch(1)));
}

#[test]
fn a_ring_goes_on_at_its_beginning_when_its_end_is_too_short() {
    assert_eq!(place(0, 10, 10), 0);
    assert_eq!(place(4, 6, 10), 4);
    assert_eq!(place(4, 7, 10), 0);
    assert_eq!(place(10, 1, 10), 0);
}

#[test]
fn nobody_gives_back_what_was_not_taken() {
    let mut credits = Credits::new(2, 8);
    assert!(credits.spend() && credits.spend() && !credits.spend());
    assert_eq!(credits.regain(3), Err(StreamFault::Credits(3)));
    assert_eq!(credits.regain(u16::MAX), Err(StreamFault::Credits(u16::MAX)));
    assert_eq!(credits.regain(2), Ok(()));
    assert_eq!(credits.regain(1), Err(StreamFault::Credits(1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn messages_come_out_as_they_went_in(
        messages in vec((vec(any::<u8>(), 0..600), vec(0..20_000_usize, 0..5)), 1..8),
    ) {
        let bodies: Vec<Vec<Vec<u8>>> =
            messages.iter().map(|(_, lengths)| lengths.iter().map(|n| vec![n.to_le_bytes()[0]; *n]).collect()).collect();
        let slots = messages.iter().zip(&bodies).flat_map(|((header, _), body)| {
            cut(header, &body.iter().map(Vec::as_slice).collect::<Vec<_>>())
        });
        let expected = messages.iter().zip(&bodies).map(|((header, _), body)| (header.clone(), body.concat()));
        prop_assert_eq!(through(&slots.collect::<Vec<_>>()), expected.collect::<Vec<_>>());
    }

    #[test]
    fn any_slots_are_messages_or_a_fault_and_never_more_bytes_than_came(slots in vec(vec(0..3_u8, 0..40), 0..20)) {
        let (mut came, mut out) = (0, 0);
        let mut assembler = Assembler::default();
        for slot in slots {
            came += slot.len();
            let Ok((_, _, bytes)) = open(&slot) else { break };
            if assembler.take(bytes, |header, body| out += header.len() + body.len() + PREFIX_BYTES).is_err() {
                break;
            }
            prop_assert!(out <= came && assembler.begun.len() <= came);
        }
    }

    /// Two ends over a channel of slots, in any order of sending and taking: what the receiver has posted is never exceeded, every slot is
    /// given back, and no more than three slots that only give back are under way.
    #[test]
    fn slots_are_neither_lost_nor_made(steps in vec((any::<bool>(), 0..3_u8), 1..400)) {
        const SLOTS: u16 = 6;
        let mut credits = [Credits::new(SLOTS, SLOTS), Credits::new(SLOTS, SLOTS)];
        // By receiver: what each slot gives back, and whether it has a message.
        let mut under_way = [std::collections::VecDeque::new(), std::collections::VecDeque::new()];
        for (side, step) in steps {
            let (own, other) = (usize::from(side), usize::from(!side));
            if step == 0 {
                if credits[own].spend() {
                    let paid = credits[own].pay();
                    under_way[other].push_back((paid, true));
                }
            } else if let Some((paid, message)) = under_way[own].pop_front() {
                prop_assert_eq!(credits[own].regain(paid), Ok(()));
                credits[own].owe(message.into());
                if credits[own].is_overdue() {
                    let paid = credits[own].pay();
                    under_way[other].push_back((paid, false));
                }
            }
            for receiver in 0..2 {
                let slots = under_way[receiver].iter();
                let messages = slots.clone().filter(|(_, message)| *message).count();
                prop_assert!(messages <= SLOTS.into() && slots.len() - messages <= 3);
                let paid: u16 = under_way[1 - receiver].iter().map(|(paid, _)| *paid).sum();
                let known = credits[1 - receiver].free + credits[receiver].owed + paid;
                prop_assert_eq!(usize::from(known) + messages, usize::from(SLOTS));
            }
        }
    }
}
