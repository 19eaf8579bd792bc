//! Losses, garbage and stops.

use std::sync::atomic::AtomicU32;

use vincs_coherence::codec;
use vincs_coherence::id::{Access, Page};
use vincs_coherence::message::Message;
use vincs_coherence::transport::MAX_BODY;

use super::*;
use crate::memory::engine::{EngineError, FaultSampler, Sampling};
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
        let EngineEvent::Protocol(what) = at.event(0) else { panic!("{:?}", at.event(0)) };
        assert!(what.starts_with("rank 1 sent"), "{what}");
    }
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

fn alone(sampler: Option<Sampling>, ram: &GuestRam, homes: u32, ends: Vec<Arc<End>>) -> Result<Engine, EngineError> {
    let transports = ends.into_iter().map(|end| end as Arc<dyn Transport>).collect();
    let config = EngineConfig {
        rank: Rank(0),
        ranks: 1,
        homes: HomeMap::new([(homes, Rank(0))]).unwrap(),
        shards: 1,
        hold: None,
        cache_pages: None,
        read_ahead: 0,
        first_touch: 1,
        companions: 0,
        spin: Duration::from_micros(50),
        bind: true,
        sampler,
    };
    Engine::start(ram, config, transports, Arc::new(|event| panic!("{event:?}")))
}

#[test]
fn one_of_so_many_faults_is_looked_at_with_its_thread() {
    let samples = Arc::new(Samples::default());
    let ram = GuestRam::new(&[(GuestAddress(0), 64 * PAGE_BYTES)]).unwrap();
    let sampling = Sampling { every: 4, sampler: Arc::clone(&samples) as Arc<dyn FaultSampler> };
    let engine = alone(Some(sampling), &ram, 64, Hub::ends(1)).unwrap();
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
    ram.make_resident(0..1);
    assert!(matches!(error(64, Hub::ends(1)), EngineError::InUse));
}
