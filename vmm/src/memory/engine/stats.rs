//! What the engine has counted and timed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vincs_coherence::id::{Page, Run};
use vincs_coherence::message::Message;
use vincs_coherence::node::Stats as NodeStats;

use super::hot::{HOT_PAGES, HotPage, HotPages};
use super::latency::Latencies;
use super::mailbox::locked;
use super::uffd::Missing;

/// Pages of [`EngineStats::hottest`] that a user is told of. What adds up takes all, and is cut to these when nothing is added any more.
pub const HOTTEST: usize = 10;

/// What a rank's engine has done since its start. Those of several shards and ranks can be
/// added up.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct EngineStats {
    /// What the protocol has counted.
    pub protocol: NodeStats,
    /// Faults to read pages that were not here, from when the engine learned of them to when the thread was woken.
    pub read_faults: Latencies,
    /// Faults to write pages that were not here.
    pub write_faults: Latencies,
    /// Faults to write pages that could only be read here.
    pub upgrade_faults: Latencies,
    /// Devices' waits for their pages.
    pub device_holds: Latencies,
    /// Messages sent.
    pub sent: Traffic,
    /// Messages received.
    pub received: Traffic,
    /// Waits of the service threads.
    pub waits: Waits,
    /// The pages with the most faults, the hottest first. Of a shard or rank at most [`HOT_PAGES`], of several all that any of them has.
    pub hottest: Vec<HotPage>,
}

/// Messages and their bytes by type.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Traffic {
    /// Requests of pages.
    pub acquire: Count,
    /// Pages given.
    pub grant: Count,
    /// Pages not given to read ahead.
    pub refuse: Count,
    /// Copies taken away.
    pub invalidate: Count,
    /// Answers to that.
    pub invalidate_ack: Count,
    /// Pages asked back.
    pub recall: Count,
    /// Pages given back.
    pub write_back: Count,
    /// Everything that homes move by, with the bytes of their pages.
    #[serde(default)]
    pub hand_over: Count,
    /// Ranks that leave, and answers to that.
    #[serde(default)]
    pub leave: Count,
}

/// A number of messages.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Count {
    /// How many.
    pub messages: u64,
    /// Their bytes, encoded, with the bytes of pages.
    pub bytes: u64,
}

/// What the service threads waited for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Waits {
    /// Times that a thread had nothing to do and slept.
    pub sleeps: u64,
    /// Messages that could not be sent at once, as too much was under way.
    pub held_up: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

impl Traffic {
    fn count(&mut self, message: &Message, bytes: usize) {
        let count = match message {
            Message::Acquire { .. } => &mut self.acquire,
            Message::Grant { .. } => &mut self.grant,
            Message::Refuse { .. } => &mut self.refuse,
            Message::Invalidate { .. } => &mut self.invalidate,
            Message::InvalidateAck { .. } => &mut self.invalidate_ack,
            Message::Recall { .. } => &mut self.recall,
            Message::WriteBack { .. } => &mut self.write_back,
            Message::Leave | Message::LeaveAck => &mut self.leave,
            Message::HandOver { .. }
            | Message::Freeze { .. }
            | Message::Frozen { .. }
            | Message::Requests { .. }
            | Message::Entries { .. }
            | Message::Moved { .. } => &mut self.hand_over,
        };
        count.add(Count { messages: 1, bytes: bytes as u64 });
    }

    /// Messages of all types together.
    #[must_use]
    pub fn total(&self) -> Count {
        let Self { acquire, grant, refuse, invalidate, invalidate_ack, recall, write_back, hand_over, leave } = *self;
        let mut sum = Count::default();
        let all = [acquire, grant, refuse, invalidate, invalidate_ack, recall, write_back, hand_over, leave];
        all.into_iter().for_each(|count| sum.add(count));
        sum
    }

    fn add(&mut self, other: &Self) {
        let Self { acquire, grant, refuse, invalidate, invalidate_ack, recall, write_back, hand_over, leave } = other;
        self.acquire.add(*acquire);
        self.grant.add(*grant);
        self.refuse.add(*refuse);
        self.invalidate.add(*invalidate);
        self.invalidate_ack.add(*invalidate_ack);
        self.recall.add(*recall);
        self.write_back.add(*write_back);
        self.hand_over.add(*hand_over);
        self.leave.add(*leave);
    }
}

impl EngineStats {
    /// How long processors have waited for pages, all together.
    #[must_use]
    pub fn waited(&self) -> Duration {
        let Self { read_faults, write_faults, upgrade_faults, .. } = self;
        let faults = [read_faults, write_faults, upgrade_faults];
        faults.into_iter().fold(Duration::ZERO, |sum, faults| sum.saturating_add(faults.total()))
    }

    /// Adds another shard's or rank's.
    pub fn add(&mut self, other: &Self) {
        add_protocol(&mut self.protocol, &other.protocol);
        self.read_faults.add(&other.read_faults);
        self.write_faults.add(&other.write_faults);
        self.upgrade_faults.add(&other.upgrade_faults);
        self.device_holds.add(&other.device_holds);
        self.sent.add(&other.sent);
        self.received.add(&other.received);
        self.waits.sleeps += other.waits.sleeps;
        self.waits.held_up += other.waits.held_up;
        self.hottest = HotPage::merge(&self.hottest, &other.hottest);
    }
}

fn add_protocol(sum: &mut NodeStats, other: &NodeStats) {
    let NodeStats {
        read_faults,
        write_faults,
        upgrade_faults,
        joined_faults,
        late_faults,
        first_touches,
        invalidations,
        recalls,
        hold_waits,
        device_waits,
        evictions,
        ahead,
        refused,
        companions,
        migratory_grants,
        dataless_grants,
        guarded_reads,
        guarded_hits,
        guarded_misses,
        shown,
        hidden,
        homes_given,
        homes_taken,
        queued,
    } = other;
    sum.read_faults += read_faults;
    sum.write_faults += write_faults;
    sum.upgrade_faults += upgrade_faults;
    sum.joined_faults += joined_faults;
    sum.late_faults += late_faults;
    sum.first_touches += first_touches;
    sum.invalidations += invalidations;
    sum.recalls += recalls;
    sum.hold_waits += hold_waits;
    sum.device_waits += device_waits;
    sum.evictions += evictions;
    sum.ahead += ahead;
    sum.refused += refused;
    sum.companions += companions;
    sum.migratory_grants += migratory_grants;
    sum.dataless_grants += dataless_grants;
    sum.guarded_reads += guarded_reads;
    sum.guarded_hits += guarded_hits;
    sum.guarded_misses += guarded_misses;
    sum.shown += shown;
    sum.hidden += hidden;
    sum.homes_given += homes_given;
    sum.homes_taken += homes_taken;
    sum.queued += queued;
}

/// Where an engine's counters are looked up: one recorder for each shard, and one for devices.
#[derive(Clone, Debug)]
pub struct EngineCounters(pub(super) Vec<Arc<Recorder>>);

impl EngineCounters {
    /// What has been counted so far, all together.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let mut sum = EngineStats::default();
        self.0.iter().for_each(|recorder| sum.add(&recorder.snapshot()));
        // Every page with more than 1/HOT_PAGES of the rank's faults stays: all counts together are no more than its faults.
        sum.hottest.truncate(HOT_PAGES);
        sum
    }
}

/// Where the thread of one shard puts what it has counted, or the devices do. Nobody else locks it but who reads it, now and then.
#[derive(Debug, Default)]
pub(super) struct Recorder(Mutex<Counters>);

#[derive(Debug, Default)]
struct Counters {
    stats: EngineStats,
    hot: HotPages,
    /// Faults that wait: since when, in nanoseconds of the shard's clock, and for what.
    waiting: BTreeMap<Page, (Duration, Missing)>,
}

impl Recorder {
    /// A thread waits for a page.
    pub(super) fn fault(&self, now: Duration, page: Page, missing: Missing, thread: i32) {
        let mut counters = locked(&self.0);
        counters.waiting.entry(page).or_insert((now, missing));
        counters.hot.count(page, thread);
    }

    /// Who waits for these pages is woken.
    pub(super) fn woken(&self, now: Duration, run: Run) {
        let mut counters = locked(&self.0);
        let Counters { stats, waiting, .. } = &mut *counters;
        if waiting.is_empty() {
            return;
        }
        while let Some((&page, &(since, missing))) = waiting.range(run.first..run.end()).next() {
            waiting.remove(&page);
            let faults = match missing {
                Missing::Read => &mut stats.read_faults,
                Missing::Write => &mut stats.write_faults,
                Missing::Right => &mut stats.upgrade_faults,
            };
            faults.record(now.saturating_sub(since));
        }
    }

    /// A device has its pages after this time.
    pub(super) fn held(&self, after: Duration) {
        locked(&self.0).stats.device_holds.record(after);
    }

    /// A message was sent.
    pub(super) fn sent(&self, message: &Message, bytes: usize, held_up: bool) {
        let mut counters = locked(&self.0);
        counters.stats.sent.count(message, bytes);
        counters.stats.waits.held_up += u64::from(held_up);
    }

    /// A message has come.
    pub(super) fn received(&self, message: &Message, bytes: usize) {
        locked(&self.0).stats.received.count(message, bytes);
    }

    /// The service thread goes to sleep; what the protocol has counted so far.
    pub(super) fn sleeps(&self, protocol: NodeStats) {
        let mut counters = locked(&self.0);
        counters.stats.waits.sleeps += 1;
        counters.stats.protocol = protocol;
    }

    /// What the protocol has counted so far.
    pub(super) fn protocol(&self, protocol: NodeStats) {
        locked(&self.0).stats.protocol = protocol;
    }

    /// All of it.
    pub(super) fn snapshot(&self) -> EngineStats {
        let counters = locked(&self.0);
        EngineStats { hottest: counters.hot.hottest(), ..counters.stats.clone() }
    }
}

#[cfg(test)]
mod tests {
    use vincs_coherence::id::Version;
    use vincs_coherence::transport::MAX_BODY;

    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn a_fault_is_timed_from_the_first_event_to_the_wake_of_its_page() {
        let recorder = Recorder::default();
        recorder.fault(MICROSECOND * 10, Page(5), Missing::Read, 1);
        recorder.fault(MICROSECOND * 12, Page(5), Missing::Write, 2);
        recorder.fault(MICROSECOND * 13, Page(9), Missing::Right, 2);
        recorder.woken(MICROSECOND * 14, Run { first: Page(6), count: 3 });
        recorder.woken(MICROSECOND * 30, Run { first: Page(4), count: 2 });
        let stats = recorder.snapshot();
        assert_eq!((stats.read_faults.count(), stats.write_faults.count(), stats.upgrade_faults.count()), (1, 0, 0));
        let took = stats.read_faults.percentile(50.0).as_nanos();
        assert!((19_500..=20_500).contains(&took), "{took}");
        assert_eq!(stats.hottest[0].page, 5);
        assert_eq!((stats.hottest[0].faults, stats.hottest[0].threads.clone()), (2, vec![1, 2]));
    }

    /// One shard that has seen so many faults on each of these pages.
    fn shard(pages: impl IntoIterator<Item = (u32, u64)>) -> Arc<Recorder> {
        let recorder = Recorder::default();
        for (page, faults) in pages {
            (0..faults).for_each(|_| recorder.fault(MICROSECOND, Page(page), Missing::Read, 1));
        }
        Arc::new(recorder)
    }

    #[test]
    fn a_rank_tells_of_all_pages_that_it_can_the_hottest_first() {
        let few = EngineCounters(vec![shard((0..11).map(|page| (page, 2))), shard([(100, 3)])]).stats();
        assert_eq!(few.hottest.iter().map(|hot| hot.page).collect::<Vec<_>>(), [vec![100], (0..11).collect()].concat());
        let many = EngineCounters(vec![shard((0..200).map(|page| (page, 2))), shard((200..400).map(|page| (page, 1)))]);
        let many = many.stats().hottest;
        assert_eq!((many.len(), many[199].faults, many[200].faults, many[255].page), (HOT_PAGES, 2, 1, 255));
    }

    #[test]
    fn what_a_rank_tells_of_hot_pages_leaves_room_in_its_message() {
        let threads = vec![i32::MIN; 8];
        let hot = HotPage { page: u32::MAX, faults: u64::MAX, over: u64::MAX, threads };
        let told = serde_json::to_vec(&vec![hot; HOT_PAGES]).unwrap();
        assert!(told.len() < MAX_BODY / 16, "{}", told.len());
    }

    #[test]
    fn statistics_of_ranks_add_up_and_survive_their_way_as_json() {
        let recorder = Recorder::default();
        let invalidate = Message::Invalidate { page: Page(1) };
        let write_back = Message::WriteBack {
            page: Page(1),
            version: Version(1),
            keep: vincs_coherence::message::Keep::Nothing,
            content: vincs_coherence::message::Content::Data,
        };
        recorder.sent(&invalidate, 10, false);
        recorder.sent(&write_back, 4106, true);
        recorder.received(&invalidate, 10);
        recorder.held(MICROSECOND);
        recorder.sleeps(NodeStats { evictions: 3, ..NodeStats::default() });
        let one: EngineStats = serde_json::from_str(&serde_json::to_string(&recorder.snapshot()).unwrap()).unwrap();
        assert_eq!(one, recorder.snapshot());
        let mut sum = EngineStats::default();
        sum.add(&one);
        sum.add(&one);
        assert_eq!(sum.sent.write_back, Count { messages: 2, bytes: 8212 });
        assert_eq!((sum.sent.invalidate.messages, sum.received.invalidate.bytes), (2, 20));
        assert_eq!(
            (sum.waits.held_up, sum.waits.sleeps, sum.protocol.evictions, sum.device_holds.count()),
            (2, 2, 6, 2)
        );
    }
}
