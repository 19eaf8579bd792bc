//! A device of several ranks, played by a file and a thread that answers what programs ask for there. All processors are on one rank and its memory is as
//! coherent as a file's: what is shown is what programs ask for. Machines whose ranks differ are in `tests/tests/wide.rs`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use vincs_guest::CONTROL_BYTES;
use vincs_guest_commands::{
    ANSWERED, ASKED, BEGIN, COMMAND, DONE, HEAR, MAGIC, RANKS_AT, RESULT, SLOTS, TELL, VERSION, VERSION_AT,
};

const PAGE: u64 = 4096;
/// Slots that are looked at: threads take the first that is free. Programs here have fewer threads.
const USED: u16 = 32;

/// What has been asked for.
#[derive(Debug, Default)]
struct Asked {
    begins: AtomicU64,
    tells: AtomicU64,
    hears: AtomicU64,
    others: AtomicU64,
    ended: AtomicBool,
}

/// The device.
#[derive(Debug)]
pub(crate) struct SeveralRanks {
    path: PathBuf,
    asked: Arc<Asked>,
    answers: Option<JoinHandle<()>>,
}

impl SeveralRanks {
    /// With so many bytes for arrays, full of sevens.
    pub(crate) fn new(path: &Path, bytes: usize) -> Self {
        std::fs::write(path, vec![7; CONTROL_BYTES + bytes]).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let control = CONTROL_BYTES as u64;
        file.write_all_at(&vec![0; CONTROL_BYTES], 0).unwrap();
        file.write_all_at(&MAGIC.to_le_bytes(), 0).unwrap();
        file.write_all_at(&VERSION.to_le_bytes(), VERSION_AT.into()).unwrap();
        file.write_all_at(&2u32.to_le_bytes(), RANKS_AT.into()).unwrap();
        // What the doorbell says of every processor: it is on rank 0. Programs read it before they ring.
        file.write_all_at(&1u64.to_le_bytes(), control - PAGE).unwrap();
        let asked = Arc::new(Asked::default());
        let answers = std::thread::spawn({
            let asked = Arc::clone(&asked);
            move || {
                while !asked.ended.load(Ordering::Relaxed) {
                    let any = (0..USED).chain([SLOTS - 1]).any(|slot| answer(&file, slot, &asked));
                    if !any {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                }
            }
        });
        Self { path: path.to_owned(), asked, answers: Some(answers) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Programs that began, what was told and heard, and all else.
    pub(crate) fn asked(&self) -> [u64; 4] {
        let Asked { begins, tells, hears, others, .. } = &*self.asked;
        [begins, tells, hears, others].map(|count| count.load(Ordering::Relaxed))
    }
}

impl Drop for SeveralRanks {
    fn drop(&mut self) {
        self.asked.ended.store(true, Ordering::Relaxed);
        if let Some(answers) = self.answers.take() {
            let _ = answers.join();
        }
    }
}

/// Answers what is asked for in a slot, if anything is.
fn answer(file: &File, slot: u16, asked: &Asked) -> bool {
    let start = (1 + u64::from(slot)) * PAGE;
    let word = |at: u16| {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, start + u64::from(at)).unwrap();
        u32::from_le_bytes(bytes)
    };
    let number = word(ASKED);
    if number == word(ANSWERED) {
        return false;
    }
    let count = match word(COMMAND) {
        BEGIN => &asked.begins,
        TELL => &asked.tells,
        HEAR => &asked.hears,
        _ => &asked.others,
    };
    count.fetch_add(1, Ordering::Relaxed);
    file.write_all_at(&DONE.to_le_bytes(), start + u64::from(RESULT)).unwrap();
    file.write_all_at(&number.to_le_bytes(), start + u64::from(ANSWERED)).unwrap();
    true
}
