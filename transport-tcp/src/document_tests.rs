//! The tables of docs/transport.md say what the code does.

use std::time::Duration;

use vincs_coherence::transport::{MAX_BODY, MAX_HEADER};

use crate::auth::AUTH_TIME;
use crate::endpoint::{SIGN_OF_LIFE, SILENCE};
use crate::fabric::{CALL_AGAIN, CONNECT_TIME, MAX_CLASSES};
use crate::frame::{KINDS, Kind};
use crate::listener::MAX_PENDING;
use crate::outbound::{MAX_OPERATIONS, MAX_QUEUED};

const DOCUMENT: &str = include_str!("../../docs/transport.md");

/// The cells of the rows of the table whose first column has this heading.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let rows = DOCUMENT.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |"))).skip(2);
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    rows.take_while(|line| line.starts_with('|')).map(cells).collect()
}

#[test]
fn the_limits_are_those_of_the_code() {
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let real = [
        ("`MAX_CLASSES`", MAX_CLASSES.to_string()),
        ("`MAX_QUEUED`", format!("{} MiB", MAX_QUEUED >> 20)),
        ("`MAX_OPERATIONS`", MAX_OPERATIONS.to_string()),
        ("`MAX_PENDING`", MAX_PENDING.to_string()),
        ("`AUTH_TIME`", seconds(AUTH_TIME)),
        ("`CONNECT_TIME`", seconds(CONNECT_TIME)),
        ("`CALL_AGAIN`", format!("{} ms", CALL_AGAIN.as_millis())),
        ("`SIGN_OF_LIFE`", seconds(SIGN_OF_LIFE)),
        ("`SILENCE`", seconds(SILENCE)),
    ];
    let written: Vec<_> = table("limit").iter().map(|cells| (cells[0], cells[1].to_owned())).collect();
    assert_eq!(written, real);
}

#[test]
fn the_kinds_of_frames_are_those_of_the_code() {
    let name = |kind: Kind| {
        let short = format!("{kind:?}").to_lowercase();
        short.replace("swap", "compare-and-swap").replace("add", "fetch-and-add")
    };
    // Words in a header are told by name, one each; a body only by its most bytes.
    let header = |(least, most, _)| match (least, most) {
        (0, 0) => 0,
        (0, MAX_HEADER) => 1,
        _ => least / 8,
    };
    let body = |(_, _, most)| match most {
        0 => "",
        MAX_BODY => "up to 1 MiB",
        _ => "another",
    };
    let real = KINDS.map(|kind| {
        let limits = kind.limits();
        (name(kind), (kind as u8).to_string(), header(limits), body(limits))
    });
    let words = |cell: &str| if cell.is_empty() { 0 } else { cell.split(", ").count() };
    let written: Vec<_> = table("kind")
        .iter()
        .map(|cells| (cells[0].to_owned(), cells[1].to_owned(), words(cells[2]), cells[3]))
        .collect();
    assert_eq!(written, real);
}
