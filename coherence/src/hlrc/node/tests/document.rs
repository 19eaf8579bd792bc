//! The tables of docs/relaxed-memory.md say what the code has, compared both ways.

use crate::hlrc::action::{Action, Flush, OpId, Outcome};
use crate::hlrc::config::{MAX_LOCKS, MAX_LOG_WORDS, MAX_THREADS};
use crate::hlrc::node::{KEPT_LOCKS, LOCAL_TURNS, MAX_SCAN, MIN_PAGES, Reduction};
use crate::hlrc::notice::MAX_INTERVAL;
use crate::hlrc::race::{MAX_KEPT, MAX_OF_PAGE, MAX_REPORTS};
use crate::hlrc::writer::Writer;
use crate::hlrc::{LockId, ThreadId};
use crate::id::{MAX_RANKS, Page, Rank, Run};

fn column(heading: &str, index: usize) -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/relaxed-memory.md");
    let text = std::fs::read_to_string(path).expect("docs/relaxed-memory.md").replace('`', "");
    let rows = text.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |")));
    let cell = |line: &str| line.trim_matches('|').split('|').nth(index).unwrap_or_default().trim().to_owned();
    rows.skip(2).take_while(|line| line.starts_with('|')).map(cell).collect()
}

/// The name of a value's variant.
fn name(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// One of each, in the order of the table. The match names all there are.
fn actions() -> Vec<Action> {
    let (op, target, home, page, offset, lock) = (OpId(0), Rank(0), Rank(0), Page(0), 0, LockId(0));
    let all = vec![
        Action::Get { op, target, offset, words: 1 },
        Action::Put { op, target, offset, words: Vec::new() },
        Action::CompareAndSwap { op, target, offset, expected: 0, new: 0 },
        Action::Fetch { op, page, home },
        Action::FetchTwin { op, page, home },
        Action::Save { op, page, home },
        Action::Flush { op, home, pages: vec![(page, Flush::Whole)] },
        Action::Store { offset, words: Vec::new() },
        Action::Map { page },
        Action::Twin { page },
        Action::Allow { page },
        Action::Protect { run: Run::one(page) },
        Action::Unmap { page },
        Action::Lend { lock },
        Action::Recall { lock },
        Action::Wake { thread: ThreadId(0), outcome: Outcome::Released },
    ];
    for action in &all {
        match action {
            Action::Get { .. }
            | Action::Put { .. }
            | Action::CompareAndSwap { .. }
            | Action::Fetch { .. }
            | Action::FetchTwin { .. }
            | Action::Save { .. }
            | Action::Flush { .. }
            | Action::Store { .. }
            | Action::Map { .. }
            | Action::Twin { .. }
            | Action::Allow { .. }
            | Action::Protect { .. }
            | Action::Unmap { .. }
            | Action::Lend { .. }
            | Action::Recall { .. }
            | Action::Wake { .. } => {}
        }
    }
    all
}

#[test]
fn actions_are_those_of_the_table() {
    assert_eq!(column("action", 0), actions().iter().map(name).collect::<Vec<_>>());
}

#[test]
fn writer_words_are_those_of_the_table() {
    let (first, second) = (Rank(0), Rank(1));
    let all =
        [Writer::Nobody, Writer::One(first), Writer::Putting(first), Writer::Saving { first, second }, Writer::Many];
    assert_eq!(column("writer word", 0), all.iter().map(name).collect::<Vec<_>>());
    let kinds: Vec<String> = all.iter().map(|writer| (writer.encode() & 0xff).to_string()).collect();
    assert_eq!(column("writer word", 1), kinds);
}

#[test]
fn reductions_are_those_of_the_table() {
    assert_eq!(column("reduction", 0), Reduction::ALL.iter().map(name).collect::<Vec<_>>());
}

#[test]
fn limits_are_those_of_the_table() {
    let limits = [
        ("MAX_RANKS", MAX_RANKS.to_string()),
        ("MAX_THREADS", MAX_THREADS.to_string()),
        ("MAX_LOCKS", MAX_LOCKS.to_string()),
        ("MAX_LOG_WORDS", MAX_LOG_WORDS.to_string()),
        ("MAX_INTERVAL", MAX_INTERVAL.to_string()),
        ("MIN_PAGES", MIN_PAGES.to_string()),
        ("MAX_SCAN", MAX_SCAN.to_string()),
        ("MAX_REPORTS", MAX_REPORTS.to_string()),
        ("MAX_OF_PAGE", MAX_OF_PAGE.to_string()),
        ("MAX_KEPT", MAX_KEPT.to_string()),
        ("LOCAL_TURNS", LOCAL_TURNS.to_string()),
        ("KEPT_LOCKS", KEPT_LOCKS.to_string()),
    ];
    let documented: Vec<(String, String)> = column("limit", 0).into_iter().zip(column("limit", 1)).collect();
    assert_eq!(documented, limits.map(|(name, value)| (name.to_owned(), value)));
}
