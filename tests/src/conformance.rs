//! What every transport must do, whatever it runs over: cases against the port, instantiated per transport by
//! [`transport_conformance!`](crate::transport_conformance).
//!
//! - [`messages`]: order, exactly once, sizes, back-pressure, readiness;
//! - [`one_sided`]: get, put, compare-and-swap, fetch-and-add, capabilities;
//! - [`guarded`]: guarded reads;
//! - [`loss`]: what is told of a lost rank, and when.
//!
//! A case drives all ranks from one thread or a few: nothing here waits for longer than [`PATIENCE`].

#![expect(clippy::expect_used, clippy::panic, reason = "the cases of tests: a failure is a panic, as in a test")]

use std::io::IoSlice;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Event, OperationId, Outcome, SendError, Transport, WordSegment};

pub mod guarded;
pub mod loss;
pub mod messages;
pub mod one_sided;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Connects so many ranks within this process: gets the segments by rank and class, gives the endpoints by rank and class.
pub type Make = fn(&[Vec<Arc<WordSegment>>]) -> Vec<Vec<Box<dyn Transport>>>;

/// An event with bytes of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Seen {
    /// A message: sender, header, body.
    Message(Rank, Vec<u8>, Vec<u8>),
    /// A get or a guarded read brought bytes.
    Got(OperationId, Vec<u8>),
    /// A put is done.
    Put(OperationId),
    /// A word was this before.
    Old(OperationId, u64),
    /// An operation was refused.
    Refused(OperationId),
    /// A rank is lost, with a reason in words.
    Lost(Rank),
}

impl Seen {
    /// Of an event.
    ///
    /// # Panics
    /// A loss has no reason.
    #[must_use]
    pub fn new(event: Event<'_>) -> Self {
        match event {
            Event::Message { from, header, body } => Self::Message(from, header.to_vec(), body.to_vec()),
            Event::Completed { id, outcome: Outcome::Got(bytes) } => Self::Got(id, bytes.to_vec()),
            Event::Completed { id, outcome: Outcome::Put } => Self::Put(id),
            Event::Completed { id, outcome: Outcome::Old(word) } => Self::Old(id, word),
            Event::Completed { id, outcome: Outcome::Refused } => Self::Refused(id),
            Event::Lost { rank, reason } => {
                assert!(!reason.is_empty(), "rank {} is lost without a reason", rank.0);
                Self::Lost(rank)
            }
        }
    }
}

/// Connected ranks within this process, and what their endpoints have handed out so far.
#[derive(Debug)]
pub struct Ranks {
    /// By rank and class. A rank whose endpoints are taken away is gone.
    pub ends: Vec<Vec<Box<dyn Transport>>>,
    /// By rank and class.
    pub segments: Vec<Vec<Arc<WordSegment>>>,
    /// By rank and class.
    pub seen: Vec<Vec<Vec<Seen>>>,
}

impl Ranks {
    /// Connects so many ranks for so many classes, with segments of so many words.
    ///
    /// # Panics
    /// The transport gives another number of endpoints.
    #[must_use]
    pub fn new(make: Make, ranks: usize, classes: usize, words: usize) -> Self {
        let segment = |_| Arc::new(WordSegment::new(words));
        let segments: Vec<Vec<_>> = (0..ranks).map(|_| (0..classes).map(segment).collect()).collect();
        let ends = make(&segments);
        assert_eq!(ends.iter().map(Vec::len).collect::<Vec<_>>(), vec![classes; ranks], "endpoints by rank");
        Self { ends, segments, seen: vec![vec![Vec::new(); classes]; ranks] }
    }

    /// The endpoint of a rank for class 0.
    #[must_use]
    pub fn end(&self, rank: usize) -> &dyn Transport {
        &*self.ends[rank][0]
    }

    /// What the endpoint of a rank for class 0 has handed out.
    #[must_use]
    pub fn seen(&self, rank: usize) -> &[Seen] {
        &self.seen[rank][0]
    }

    /// Polls every endpoint of a rank once; says whether there was anything to do.
    pub fn poll(&mut self, rank: usize) -> bool {
        let mut anything = false;
        for (end, seen) in self.ends[rank].iter().zip(&mut self.seen[rank]) {
            anything |= end.poll(&mut |event| seen.push(Seen::new(event)));
        }
        anything
    }

    /// Polls all of these ranks until something holds.
    ///
    /// # Panics
    /// It does not hold in time.
    pub fn poll_until(&mut self, ranks: &[usize], what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let mut anything = false;
            for rank in ranks {
                anything |= self.poll(*rank);
            }
            assert!(Instant::now() < deadline, "waited in vain for: {what}");
            if !anything {
                thread::yield_now();
            }
        }
    }

    /// Polls all of these ranks for a while, in which whatever should not happen could.
    pub fn linger(&mut self, ranks: &[usize]) {
        let end = Instant::now() + Duration::from_millis(50);
        self.poll_until(ranks, "the end of a while", |_| Instant::now() >= end);
    }
}

/// Sends a message with a body of one piece.
///
/// # Errors
/// Those of [`Transport::send`].
pub fn send(end: &dyn Transport, to: usize, header: &[u8], body: &[u8]) -> Result<(), SendError> {
    end.send(rank(to), header, &[IoSlice::new(body)])
}

/// A rank by its number.
///
/// # Panics
/// No rank can have that number.
#[must_use]
pub fn rank(number: usize) -> Rank {
    Rank(u16::try_from(number).expect("a rank"))
}

/// Makes a test of each case for a transport that is connected by a function of the type [`Make`], with these attributes if any.
#[macro_export]
macro_rules! transport_conformance {
    (@test [$($attribute:tt)*] $make:path, $module:ident, $case:ident) => {
        #[test]
        $($attribute)*
        fn $case() {
            $crate::conformance::$module::$case($make);
        }
    };
    ($(#[$attribute:meta])* $make:path) => {
        $crate::transport_conformance! { [$(#[$attribute])*] $make;
            messages: every_message_arrives_once_and_in_order,
            messages: messages_of_every_size_at_the_limits_arrive_and_longer_ones_are_not_sent,
            messages: a_body_of_many_pieces_arrives_as_one,
            messages: many_threads_send_at_once,
            messages: back_pressure_appears_and_clears_and_nothing_is_lost,
            messages: a_full_peer_or_class_holds_up_no_other,
            messages: this_rank_and_unknown_ranks_are_no_peers,
            messages: classes_are_apart,
            messages: a_message_can_be_answered_from_within_a_poll,
            messages: an_endpoint_can_be_slept_on,
            messages: what_is_queued_goes_out_while_its_sender_sleeps,
            messages: two_that_sleep_wake_each_other,
            one_sided: operations_do_what_they_say,
            one_sided: bytes_of_every_length_and_place_are_copied,
            one_sided: memory_that_is_not_there_is_refused,
            one_sided: lists_of_puts_are_put_where_they_are_declared,
            one_sided: words_must_be_aligned,
            one_sided: segments_of_classes_are_apart,
            one_sided: concurrent_additions_and_swaps_add_up,
            one_sided: capabilities_are_true,
            one_sided: operations_and_messages_share_a_connection,
            one_sided: the_end_of_an_operation_wakes_who_sleeps,
            guarded: a_guarded_read_marks_and_brings_what_is_there,
            guarded: a_guarded_read_of_memory_that_is_not_there_is_refused,
            guarded: many_guarded_reads_are_under_way_at_once,
            guarded: what_the_hash_vouches_for_is_of_one_version,
            guarded: who_has_seen_the_word_has_marked_before,
            loss: a_loss_is_told_once_after_everything_that_came_before,
            loss: nothing_goes_to_a_lost_rank_and_the_others_go_on,
            loss: a_loss_is_told_for_every_class,
            loss: operations_under_way_to_a_lost_rank_never_complete,
            loss: a_loss_wakes_who_sleeps,
        }
    };
    ($attributes:tt $make:path; $($module:ident: $case:ident,)*) => {
        $($crate::transport_conformance! { @test $attributes $make, $module, $case })*
    };
}
