//! What is on the screen: a function of what is shown and of the screen's size.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table};
use vincs_vmm::cluster::MemberState;

use super::super::protocol::Status;
use super::super::text::numbers;
use super::sample::{HotPage, Rates};

/// Least columns and rows: the machine and one rank.
pub(super) const MIN_SIZE: (u16, u16) = (40, 5);

/// Rows that the lower half takes, its heading included, where there is room.
const LOWER_ROWS: u16 = 9;

/// Rows of ranks, their heading included, that are there before the lower half is.
const LEAST_RANK_ROWS: u16 = 5;

/// Columns of the ranks' table, and how wide each is: 80 with the spaces between them.
const COLUMNS: [(&str, u16); 10] = [
    ("rank", 4),
    ("host", 9),
    ("vCPUs", 12),
    ("read/s", 7),
    ("write/s", 7),
    ("upgr/s", 6),
    ("median", 7),
    ("p99", 7),
    ("in/s", 6),
    ("out/s", 6),
];

/// What is shown.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    pub(super) status: &'a Status,
    /// Of each rank in the order of the status; nothing before the second sample.
    pub(super) rates: Vec<Option<Rates>>,
    pub(super) hottest: &'a [HotPage],
    /// What has happened, with the machine's age in seconds; the newest last.
    pub(super) events: &'a [(u64, String)],
    /// The first rank that is shown.
    pub(super) first: usize,
}

/// Draws it. What has no room is left out: first the events and pages, then ranks, of which it says how many.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View<'_>) {
    let area = frame.area();
    if area.width < MIN_SIZE.0 || area.height < MIN_SIZE.1 {
        let (width, height) = MIN_SIZE;
        frame.render_widget(Paragraph::new(format!("{width}x{height} at least; q quits")), area);
        return;
    }
    let rest = area.height.saturating_sub(3);
    let lower = if rest >= LOWER_ROWS + LEAST_RANK_ROWS { LOWER_ROWS } else { 0 };
    let [head, ranks, lower, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(2), Constraint::Length(lower), Constraint::Length(1)])
            .areas(area);
    frame.render_widget(Paragraph::new(heading(view.status)), head);
    let shown = draw_ranks(frame, ranks, view);
    if lower.height > 0 {
        let [pages, events] = Layout::horizontal([Constraint::Length(26), Constraint::Min(10)]).areas(lower);
        frame.render_widget(Paragraph::new(pages_text(view.hottest, pages.height)), pages);
        frame.render_widget(Paragraph::new(events_text(view.events, events.height)), events);
    }
    let total = view.status.ranks.len();
    let hidden = total - shown.len();
    let text = match hidden {
        0 => "q quits".to_owned(),
        _ => format!("q quits, up and down show other ranks: {} to {} of {total}", shown.start + 1, shown.end),
    };
    frame.render_widget(Paragraph::new(Line::from(text).dim()), foot);
}

/// The machine in two lines.
fn heading(status: &Status) -> Vec<Line<'static>> {
    let paused = if status.paused { ", paused" } else { "" };
    let transport = status.transport.as_ref().map(|name| format!(" over {name}")).unwrap_or_default();
    let (minutes, seconds) = (status.seconds / 60, status.seconds % 60);
    let text = format!(
        "{} vCPUs, {} MiB on {} ranks{transport}, for {minutes}:{seconds:02}{paused}",
        status.vcpus.len(),
        status.memory >> 20,
        status.ranks.len()
    );
    vec![Line::from(format!("machine {}: {}", status.pid, status.command)).bold(), Line::from(text)]
}

/// The ranks' table; which of them there was room for.
fn draw_ranks(frame: &mut Frame<'_>, area: Rect, view: &View<'_>) -> std::ops::Range<usize> {
    let ranks = &view.status.ranks;
    let room = usize::from(area.height.saturating_sub(1));
    let columns = columns_in(area.width);
    let first = view.first.min(ranks.len().saturating_sub(room));
    let rows = ranks.iter().enumerate().skip(first).take(room).map(|(at, rank)| {
        let vcpus = if rank.vcpus.is_empty() { "none".to_owned() } else { numbers(&rank.vcpus) };
        let vcpus = match rank.state {
            MemberState::Running | MemberState::Left => vcpus,
            MemberState::Joining => "joining".to_owned(),
            MemberState::Leaving => format!("leaving {vcpus}"),
        };
        let mut cells = vec![rank.rank.to_string(), rank.host.clone(), vcpus];
        match view.rates.get(at).copied().flatten() {
            Some(Rates { faults, median, p99, traffic }) => {
                cells.extend(faults.map(short));
                cells.extend([median, p99].map(|time| time.map_or("-".to_owned(), duration)));
                cells.extend(traffic.map(short));
            }
            None => cells.extend([const { String::new() }; 7]),
        }
        Row::new(cells.into_iter().take(columns))
    });
    let shown = first..first + rows.len();
    let widths = COLUMNS[..columns].iter().map(|(_, width)| Constraint::Length(*width));
    let header = Row::new(COLUMNS[..columns].iter().map(|(name, _)| *name)).bold();
    frame.render_widget(Table::new(rows, widths).header(header).column_spacing(1), area);
    shown
}

/// How many columns fit, from the left: a number that is cut off would be another one.
fn columns_in(width: u16) -> usize {
    let mut end = 0;
    let ends = COLUMNS.iter().map(|(_, width)| {
        end += width + 1;
        end - 1
    });
    ends.filter(|end| *end <= width).count()
}

fn pages_text(hottest: &[HotPage], rows: u16) -> Vec<Line<'static>> {
    let heading = Line::from("hottest page    faults").bold();
    let line =
        |page: &HotPage| Line::from(format!("{:#012x}  {:>8}", page.page.saturating_mul(4096), short(page.faults)));
    std::iter::once(heading).chain(hottest.iter().map(line)).take(rows.into()).collect()
}

/// The newest events, the newest last.
fn events_text(events: &[(u64, String)], rows: u16) -> Vec<Line<'static>> {
    let room = usize::from(rows).saturating_sub(1);
    let newest = &events[events.len().saturating_sub(room)..];
    let line = |(seconds, what): &(u64, String)| Line::from(format!("{}:{:02} {what}", seconds / 60, seconds % 60));
    std::iter::once(Line::from("events").bold()).chain(newest.iter().map(line)).collect()
}

/// A number in five characters at most: thousands as k, and so on.
fn short(number: u64) -> String {
    let mut rest = number;
    for unit in ["", "k", "M", "G", "T", "P"] {
        if rest < 10_000 {
            return format!("{rest}{unit}");
        }
        rest /= 1000;
    }
    format!("{rest}E")
}

/// Nanoseconds in seven characters at most.
fn duration(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1000 => format!("{nanoseconds} ns"),
        1000..10_000_000 => format!("{} us", nanoseconds / 1000),
        10_000_000..10_000_000_000 => format!("{} ms", nanoseconds / 1_000_000),
        _ => format!("{} s", (nanoseconds / 1_000_000_000).min(99_999)),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::sample::tests::status;
    use super::*;

    /// The screen of this size as lines, without the spaces at their ends.
    fn screen(width: u16, height: u16, view: &View<'_>) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect()
    }

    fn view<'a>(status: &'a Status, hottest: &'a [HotPage], events: &'a [(u64, String)]) -> View<'a> {
        let rates = Rates {
            faults: [1200, 35, 123_456],
            median: Some(57_087),
            p99: Some(81_788_927),
            traffic: [5_300_000, 17],
        };
        let rates = status.ranks.iter().map(|rank| (rank.rank != 1).then_some(rates)).collect();
        View { status, rates, hottest, events, first: 0 }
    }

    #[test]
    fn all_of_it_is_on_a_terminal_of_80_by_24() {
        let mut status = status(&[&[0, 1, 2, 5], &[3], &[]], true);
        status.ranks[1].state = MemberState::Leaving;
        let hottest = [HotPage { page: 1630, faults: 18 }];
        let events = [(61, "rank 2 has joined on n2".to_owned())];
        let lines = screen(80, 24, &view(&status, &hottest, &events));
        assert_eq!(lines[0], "machine 7: make -j8");
        assert_eq!(lines[1], "5 vCPUs, 1024 MiB on 3 ranks over tcp, for 1:15, paused");
        assert_eq!(lines[2], "rank host      vCPUs        read/s  write/s upgr/s median  p99     in/s   out/s");
        assert_eq!(lines[3], "0    n0        0-2,5        1200    35      123k   57 us   81 ms   5300k  17");
        assert_eq!(lines[4], "1    n1        leaving 3", "it told nothing");
        assert_eq!(lines[5], "2    n2        none         1200    35      123k   57 us   81 ms   5300k  17");
        assert_eq!(lines[14], "hottest page    faults    events");
        assert_eq!(lines[15], "0x000065e000        18    1:01 rank 2 has joined on n2");
        assert_eq!(lines[23], "q quits");
    }

    #[test]
    fn what_has_no_room_is_left_out_and_told() {
        let all: Vec<Vec<u32>> = (0..20).map(|vcpu| vec![vcpu]).collect();
        let all: Vec<&[u32]> = all.iter().map(Vec::as_slice).collect();
        let status = status(&all, false);
        let events: Vec<(u64, String)> = (0..20).map(|n| (n, format!("event {n}"))).collect();
        let full = view(&status, &[], &events);
        let lines = screen(80, 24, &full);
        assert!(lines[22].ends_with("0:19 event 19") && lines[15].ends_with("0:12 event 12"), "{lines:?}");
        assert_eq!(lines[23], "q quits, up and down show other ranks: 1 to 11 of 20");
        let last = screen(80, 24, &View { first: 99, ..full.clone() });
        assert!(last[13].starts_with("19   n19"), "{last:?}");
        let small = screen(MIN_SIZE.0, MIN_SIZE.1, &full);
        assert_eq!(small[2], "rank host      vCPUs        read/s");
        assert_eq!(small[3], "0    n0        0            1200", "what has no room is not cut off");
        assert!(small[4].starts_with("q quits"), "{small:?}");
        assert_eq!([40, 42, 43, 79, 80, 200].map(columns_in), [4, 4, 5, 9, 10, 10]);
        for (width, height) in [(MIN_SIZE.0 - 1, MIN_SIZE.1), (MIN_SIZE.0, MIN_SIZE.1 - 1), (1, 1)] {
            assert!("40x5 at least; q quits".starts_with(&screen(width, height, &full)[0]), "{width}x{height}");
        }
    }

    #[test]
    fn numbers_keep_to_their_columns() {
        assert_eq!([0, 9999, 10_000, 9_999_999].map(short), ["0", "9999", "10k", "9999k"]);
        assert!([u64::MAX, 10_000_000, 99_999].map(short).iter().all(|text| text.len() <= 5));
        assert_eq!([999, 1000, 9_999_999, 10_000_000].map(duration), ["999 ns", "1 us", "9999 us", "10 ms"]);
        assert!([u64::MAX, 10_000_000_000].map(duration).iter().all(|text| text.len() <= 7));
    }
}
