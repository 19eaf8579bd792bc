//! The device through which the guest talks: ports for words, text, the end, and the wish to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vincs_micro_guest_payload::protocol::{
    END_DONE, END_NESTED_FAULT, END_TOO_MANY_CPUS, MAX_CPUS, PORT_END, PORT_REST, PORT_ROUND, PORT_STOP, PORT_TEXT,
    PORT_WORD,
};
use vincs_vmm::bus::PioDevice;

/// Most words that are kept of a report; the largest report has some hundred. More are dropped.
const MAX_WORDS: usize = 4096;
/// Most bytes that are kept of a text. More are dropped.
const MAX_TEXT: usize = 4096;

/// How long a processor rests that has nothing to do: the others, which are to have the host's processors meanwhile, are
/// about as long at it.
const REST: Duration = Duration::from_micros(50);

/// How a program ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// Well; the words of its report.
    Done(Vec<u64>),
    /// Not well; why.
    Failed(String),
}

/// The device. The vCPUs' threads write into it, the thread that runs the program waits at it.
#[derive(Debug, Default)]
pub struct HostDevice {
    heard: Mutex<Heard>,
    changed: Condvar,
    stop: AtomicBool,
    rounds: Rounds,
}

/// Rounds of work that each processor has told of.
#[derive(Debug)]
struct Rounds([AtomicU64; MAX_CPUS]);

impl Default for Rounds {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; MAX_CPUS])
    }
}

#[derive(Debug, Default)]
struct Heard {
    halves: Vec<u32>,
    text: Vec<u8>,
    end: Option<u32>,
}

impl HostDevice {
    /// Asks the program to stop. Only those that run until then look.
    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Rounds of work that each processor has told of so far, in order.
    #[must_use]
    pub fn rounds(&self) -> Vec<u64> {
        self.rounds.0.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect()
    }

    /// How the program ended, once it has; none if it has not by then.
    #[must_use]
    pub fn wait(&self, until: Instant) -> Option<End> {
        let heard = self.wait_for(until, |heard| heard.end.is_some());
        let end = heard.end?;
        let text = String::from_utf8_lossy(&heard.text).trim_end_matches('\0').to_owned();
        Some(match end {
            END_DONE => End::Done(words(&heard.halves)),
            END_TOO_MANY_CPUS => End::Failed("a processor has an APIC id that the guest has no place for".into()),
            END_NESTED_FAULT => End::Failed(format!("a fault while a failure was being reported: {text:?}")),
            _ => End::Failed(text),
        })
    }

    /// The first `count` words of the report, once they have come; none if they have not by then, or the program has ended.
    #[must_use]
    pub fn first_words(&self, count: usize, until: Instant) -> Option<Vec<u64>> {
        let heard = self.wait_for(until, |heard| heard.end.is_some() || heard.halves.len() >= 2 * count);
        words(&heard.halves).get(..count).map(<[u64]>::to_vec)
    }

    fn wait_for(&self, until: Instant, met: impl Fn(&Heard) -> bool) -> std::sync::MutexGuard<'_, Heard> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if met(&heard) || left == Duration::ZERO {
                return heard;
            }
            (heard, _) = self.changed.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl PioDevice for HostDevice {
    fn read(&self, port: u16, data: &mut [u8]) {
        match port {
            PORT_STOP => data.fill(self.stop.load(Ordering::SeqCst).into()),
            PORT_REST => thread::sleep(REST),
            _ => {}
        }
    }

    fn write(&self, port: u16, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        if port == PORT_ROUND {
            let processor = usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
            if let Some(rounds) = self.rounds.0.get(processor) {
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        if !matches!(port, PORT_WORD | PORT_TEXT | PORT_END) {
            return;
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match port {
            _ if heard.end.is_some() => {}
            PORT_WORD if heard.halves.len() < 2 * MAX_WORDS => heard.halves.push(u32::from_le_bytes(bytes)),
            PORT_TEXT if heard.text.len() < MAX_TEXT => heard.text.extend(bytes),
            PORT_END => heard.end = Some(u32::from_le_bytes(bytes)),
            _ => {}
        }
        self.changed.notify_all();
    }
}

fn words(halves: &[u32]) -> Vec<u64> {
    let (pairs, _) = halves.as_chunks();
    pairs.iter().map(|&[low, high]| u64::from(low) | u64::from(high) << 32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn words_come_in_halves_and_an_odd_half_is_none() {
        let device = HostDevice::default();
        for half in [1_u32, 2, 3] {
            device.write(PORT_WORD, &half.to_le_bytes());
        }
        assert_eq!(device.first_words(1, now()), Some(vec![1 | 2 << 32]));
        assert_eq!(device.first_words(2, now()), None);
        assert_eq!(device.wait(now()), None);
        device.write(PORT_END, &END_DONE.to_le_bytes());
        assert_eq!(device.wait(now()), Some(End::Done(vec![1 | 2 << 32])));
    }

    #[test]
    fn a_failure_has_its_text_and_nothing_counts_after_the_end() {
        let device = HostDevice::default();
        device.write(PORT_TEXT, b"lost");
        device.write(PORT_TEXT, b" it\0");
        device.write(PORT_END, &2_u32.to_le_bytes());
        device.write(PORT_TEXT, b"more");
        device.write(PORT_END, &END_DONE.to_le_bytes());
        assert_eq!(device.wait(now()), Some(End::Failed("lost it".into())));
    }

    #[test]
    fn floods_and_odd_accesses_are_dropped() {
        let device = HostDevice::default();
        device.write(PORT_WORD, &[1]);
        device.write(PORT_END, &[1; 8]);
        for _ in 0..2 * MAX_WORDS + 2 {
            device.write(PORT_WORD, &[0; 4]);
        }
        for _ in 0..MAX_TEXT {
            device.write(PORT_TEXT, b"text");
        }
        let heard = device.heard.lock().unwrap();
        assert_eq!((heard.halves.len(), heard.text.len(), heard.end), (2 * MAX_WORDS, MAX_TEXT, None));
    }

    #[test]
    fn rounds_are_counted_for_processors_that_there_may_be() {
        let device = HostDevice::default();
        for processor in [0, 63, 63, 64, u32::MAX] {
            device.write(PORT_ROUND, &processor.to_le_bytes());
        }
        device.write(PORT_ROUND, &[0; 2]);
        let rounds = device.rounds();
        assert_eq!((rounds.len(), rounds[0], rounds[63], rounds.iter().sum::<u64>()), (MAX_CPUS, 1, 2, 3));
    }

    #[test]
    fn the_wish_to_stop_is_read_at_its_port_alone() {
        let device = HostDevice::default();
        let read = |port| {
            let mut data = [0xff; 4];
            device.read(port, &mut data);
            u32::from_le_bytes(data)
        };
        assert_eq!(read(PORT_STOP), 0);
        device.ask_to_stop();
        assert_eq!((read(PORT_STOP), read(PORT_WORD)), (0x0101_0101, u32::MAX));
    }
}
