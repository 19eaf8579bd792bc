//! The table of limits in docs/transport-rdma.md says what the code does.

use crate::endpoint::SIGN_OF_LIFE;
use crate::peer::{INLINE_BYTES, MAX_OPERATIONS, OPERATION_BYTES, RING_SLOTS, SLOTS, UNANSWERED};
use crate::stream::SLOT_BYTES;

const DOCUMENT: &str = include_str!("../../docs/transport-rdma.md");

#[test]
fn the_limits_are_those_of_the_code() {
    let real = [
        ("`SLOT_BYTES`", SLOT_BYTES.to_string()),
        ("`SLOTS`", SLOTS.to_string()),
        ("`RING_SLOTS`", RING_SLOTS.to_string()),
        ("`MAX_OPERATIONS`", MAX_OPERATIONS.to_string()),
        ("`OPERATION_BYTES`", format!("{} KiB", OPERATION_BYTES >> 10)),
        ("`INLINE_BYTES`", INLINE_BYTES.to_string()),
        ("`SIGN_OF_LIFE`", format!("{} s", SIGN_OF_LIFE.as_secs())),
        ("`UNANSWERED`", UNANSWERED.to_string()),
    ];
    let rows = DOCUMENT.lines().skip_while(|line| !line.starts_with("| limit |")).skip(2);
    let cells = |line: &'static str| line.split('|').map(str::trim).skip(1).collect::<Vec<_>>();
    let rows = rows.take_while(|line| line.starts_with('|')).map(cells);
    assert_eq!(rows.map(|cells| (cells[0], cells[1].to_owned())).collect::<Vec<_>>(), real);
}
