//! Losses, garbage and stops.

use std::num::NonZeroU32;
use std::sync::atomic::AtomicU32;

use vincs_coherence::codec;
use vincs_coherence::id::{Access, Page, Run, STRIPE_PAGES};
use vincs_coherence::message::{Message, Urgency};
use vincs_coherence::node::{Config, HoldId, Node};
use vincs_coherence::transport::{MAX_BODY, WordSegment};

use super::*;
use crate::memory::engine::Processors;
use crate::memory::engine::frames::{Frames, Shard};
use crate::memory::engine::mailbox::{Command, Mailbox, Refused, Waiter};
use crate::memory::engine::service::{Parts, Service, Shared};
use crate::memory::engine::view::View;
use crate::memory::engine::{EngineError, FaultSampler, Vitals};
use crate::memory::{GuestRange, HoldError};

#[test]
fn a_lost_rank_is_told_once_and_ends_waits_of_devices() {
    let at = Setup::of(3, 16).start();
    at.word(1, 3, 0).store(1, Ordering::Relaxed);
    at.lose(2);
    at.lose(1);
    let lost = |rank| EngineEvent::RankLost { rank: Rank(rank), reason: "the test wants it".into() };
    assert_eq!(at.event(0), lost(2));
    let memory = at.ranks[0].engine.device_memory();
    let page = GuestRange { start: GuestAddress(3 * 4096), len: 1 };
    let error = memory.hold(&[(page, crate::memory::Access::Read)]).unwrap_err();
    assert!(matches!(error, HoldError::Ended), "{error}");
    assert_eq!(at.event(1), lost(2));
    thread::sleep(Duration::from_millis(20));
    assert_eq!(*locked(&at.ranks[0].events), [lost(2)]);
}

#[test]
fn a_device_that_waits_when_a_rank_is_lost_is_refused() {
    let mut at = Setup::of(2, 16).start();
    // Rank 1 does not answer any more.
    at.ranks[1].engine.stop();
    thread::scope(|scope| {
        let memory = at.ranks[0].engine.device_memory();
        let waits = scope.spawn(move || {
            let page = GuestRange { start: GuestAddress(20 * 4096), len: 1 };
            memory.hold(&[(page, crate::memory::Access::Read)]).map(drop)
        });
        thread::sleep(Duration::from_millis(20));
        assert!(!waits.is_finished());
        at.lose(1);
        assert!(matches!(join(waits), Err(HoldError::Ended)));
    });
}

#[test]
fn garbage_is_a_protocol_event_that_names_the_sender() {
    let encoded = |message: &Message| {
        let mut header = Vec::new();
        codec::encode(message, &mut header);
        header
    };
    let ack = encoded(&Message::InvalidateAck { page: Page(1) });
    let forged = [(vec![], vec![]), (vec![0xff; 64], vec![]), (ack.clone(), vec![]), (ack, vec![0; PAGE_BYTES])];
    for (header, body) in forged {
        let at = Setup::of(2, 16).start();
        at.channels[0][1].send_raw(Rank(0), &header, &body);
        assert!(matches!(at.event(0), EngineEvent::Protocol { rank: Rank(1), .. }), "{:?}", at.event(0));
    }
}

#[test]
fn a_message_about_pages_of_another_shard_is_refused() {
    for first in [STRIPE_PAGES, STRIPE_PAGES - 1] {
        let at = Setup { shards: 2, ..Setup::of(2, 2 * STRIPE_PAGES) }.start();
        let run = Run { first: Page(first), count: 2 };
        let (access, urgency) = (Access::Read, Urgency::Demand);
        let mut header = Vec::new();
        codec::encode(&Message::Acquire { run, access, urgency, have: Vec::new() }, &mut header);
        at.channels[0][1].send_raw(Rank(0), &header, &[]);
        let EngineEvent::Protocol { rank: Rank(1), what } = at.event(0) else { panic!("{:?}", at.event(0)) };
        assert!(what.ends_with("to shard 0, which does not have them"), "{what}");
    }
}

/// Ranks 2 and 3 have joined. That 2 has left, 3 may hear on its control channel only after its connections to 2 have closed.
#[test]
fn ranks_without_homes_do_not_miss_each_other() {
    let at = Setup { homes: 2, ..Setup::of(4, 16) }.start();
    at.word(3, 0, 0).store(1, Ordering::SeqCst);
    at.channels[0][2].lose(Rank(3), "closed");
    thread::sleep(Duration::from_millis(50));
    at.assert_quiet();
    at.word(3, 17, 0).store(2, Ordering::SeqCst);
    assert_eq!((at.word(0, 0, 0).load(Ordering::SeqCst), at.word(1, 17, 0).load(Ordering::SeqCst)), (1, 2));
    at.assert_quiet();
    at.channels[0][1].lose(Rank(3), "closed");
    assert!(matches!(at.event(3), EngineEvent::RankLost { rank: Rank(1), .. }), "{:?}", at.event(3));
    at.channels[0][2].lose(Rank(1), "closed");
    assert!(matches!(at.event(1), EngineEvent::RankLost { rank: Rank(2), .. }), "a home may need it");
}

#[test]
fn stopping_lets_everybody_go_on_who_waits() {
    let mut at = Setup::of(2, 16).start();
    at.ranks[1].engine.stop();
    // Rank 0 waits for pages whose home does not answer.
    let words: Vec<u64> = (0..4).map(|index| at.word(0, 16 + index, 0) as *const AtomicU64 as u64).collect();
    let waiting: Vec<_> = words
        .into_iter()
        .map(|address| {
            thread::spawn(move || {
                // SAFETY: the word is in the guest mapping, which outlives the thread: it is joined below.
                unsafe { &*(address as *const AtomicU64) }.load(Ordering::SeqCst)
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(30));
    assert!(waiting.iter().all(|thread| !thread.is_finished()));
    at.stop();
    assert!(waiting.into_iter().all(|thread| thread.join().unwrap() == 0));
    let memory = at.ranks[0].engine.device_memory();
    let page = GuestRange { start: GuestAddress(0), len: 1 };
    assert!(matches!(memory.hold(&[(page, crate::memory::Access::Read)]), Err(HoldError::Ended)));
}

#[test]
fn a_hold_that_comes_with_the_order_to_stop_is_refused() {
    let ram = GuestRam::new(&[(GuestAddress(0), 64 * PAGE_BYTES)]).unwrap();
    let homes = HomeMap::new([(64, Rank(0))]).unwrap();
    let node = Config::plain(Rank(0), 1, homes);
    let mailbox = Arc::new(Mailbox::new().unwrap());
    let waiter = Arc::new(Waiter::default());
    mailbox.push(Command::Stop);
    let runs = vec![(Run::one(Page(0)), Access::Read)];
    mailbox.push(Command::Hold { id: HoldId(1), runs, waiter: Arc::clone(&waiter) });
    let shard = Shard { index: 0, count: 1 };
    let parts = Parts {
        shard,
        node: Node::new(node).unwrap(),
        view: View::new(Arc::new(Frames::new(&ram).unwrap()), shard).unwrap(),
        window: None,
        transport: Arc::clone(&Hub::ends(1)[0]) as Arc<dyn Transport>,
        processors: Arc::new(Processors::new(1, vec![Arc::clone(&mailbox)])),
        mailbox,
        recorder: Arc::default(),
        shared: Shared::new(1, Arc::new(|event| panic!("{event:?}"))),
        vitals: Vitals::default(),
        sampling: None,
        spin: Duration::ZERO,
    };
    Service::new(parts).run();
    // Only the first answer counts.
    waiter.answer(Err(Refused::Unfit("nobody has answered".into())));
    assert_eq!(waiter.wait(), Err(Refused::Ended));
}

#[derive(Debug, Default)]
struct Samples {
    seen: Mutex<Vec<(i32, Page, Access)>>,
    calls: AtomicU32,
}

impl FaultSampler for Samples {
    fn sample(&self, thread: i32, page: Page, access: Access) {
        locked(&self.seen).push((thread, page, access));
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

fn alone(
    sampler: Option<Arc<dyn FaultSampler>>,
    ram: &GuestRam,
    homes: u32,
    ends: Vec<Arc<End>>,
) -> Result<Engine, EngineError> {
    let transports = ends.into_iter().map(|end| end as Arc<dyn Transport>).collect();
    let config = EngineConfig {
        rank: Rank(0),
        ranks: 1,
        homes: HomeMap::new([(homes, Rank(0))]).unwrap(),
        shards: 1,
        memory: MemorySettings {
            read_ahead: 0,
            first_touch: 1,
            companions: 0,
            migratory: false,
            spin: Duration::from_micros(50),
            bind: true,
            sample_every: NonZeroU32::new(4),
            ..MemorySettings::default()
        },
        processors: 1,
        sampler,
    };
    Engine::start(ram, config, transports, Arc::new(|event| panic!("{event:?}")))
}

/// With these settings, alone.
fn with_memory(memory: MemorySettings, ram: &GuestRam) -> Result<Engine, EngineError> {
    let (homes, sampler) = (HomeMap::new([(64, Rank(0))]).unwrap(), None);
    let config = EngineConfig { rank: Rank(0), ranks: 1, homes, shards: 1, memory, processors: 1, sampler };
    let end = Arc::clone(&Hub::ends(1)[0]) as Arc<dyn Transport>;
    Engine::start(ram, config, vec![end], Arc::new(|event| panic!("{event:?}")))
}

#[test]
fn one_of_so_many_faults_is_looked_at_with_its_thread() {
    let samples = Arc::new(Samples::default());
    let ram = GuestRam::new(&[(GuestAddress(0), 64 * PAGE_BYTES)]).unwrap();
    let engine = alone(Some(Arc::clone(&samples) as _), &ram, 64, Hub::ends(1)).unwrap();
    for page in 0..16_u64 {
        let host = ram.guest_mapping().get_host_address(GuestAddress(page * 4096)).unwrap();
        // SAFETY: the word is in the guest mapping, and only this thread uses it.
        unsafe { &*(host as *const AtomicU64) }.store(1, Ordering::Relaxed);
    }
    let this_thread = rustix::thread::gettid().as_raw_nonzero().get();
    let expected = [0, 4, 8, 12].map(|page| (this_thread, Page(page), Access::Write));
    assert_eq!(*locked(&samples.seen), expected);
    assert!(super::super::HOLD_LIMITS.contains(&engine.hold()));
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let ram = GuestRam::new(&[(GuestAddress(0), 64 * PAGE_BYTES)]).unwrap();
    let error = |homes, ends| alone(None, &ram, homes, ends).expect_err("settings that do not fit");
    assert!(matches!(error(63, Hub::ends(1)), EngineError::Pages { homes: 63, pages: 64 }));
    assert!(matches!(error(64, Vec::new()), EngineError::Transports { .. }));
    assert!(matches!(error(64, Hub::ends(2)), EngineError::Transports { .. }));
    let small = Hub::ends(1);
    small[0].set_max_transfer(MAX_BODY - 1);
    let words = "the transport threads carries 1048575 bytes at once; the longest message about pages has 1048576";
    assert_eq!(error(64, small).to_string(), words);
    let windows = |windows| {
        let memory = MemorySettings { windows, ..MemorySettings::default() };
        with_memory(memory, &ram).expect_err("windows that do not fit")
    };
    let one = || crate::memory::engine::windows(1, NonZeroU32::MIN).unwrap();
    assert!(matches!(windows([one(), one()].concat()), EngineError::Windows { windows: 2, shards: 1 }));
    let none = vec![Arc::new(WordSegment::new(5))];
    assert!(
        windows(none).to_string().starts_with("1 windows for 1 shards of memory; give each shard one with 1 to 15887")
    );
    ram.make_resident(0..1);
    assert!(matches!(error(64, Hub::ends(1)), EngineError::InUse));
}
