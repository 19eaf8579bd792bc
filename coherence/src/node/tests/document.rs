//! The tables of docs/coherence.md say what the code does. Lists of names are compared both ways. Transitions are compared with those seen in
//! random histories: each one seen must follow from the table, and each row must have been seen. Messages that nobody
//! sent are tried as well, so that what is not in the table is seen to be refused.

use std::collections::BTreeSet;

use super::machine::{Input, Seen};
use super::random::{hand_over, random_machine, step};
use crate::id::{Access, MAX_RANKS, MAX_RUN, Page, Rank, RankSet, Run, STRIPE_PAGES, Version};
use crate::message::{Content, Granted, Keep, Message, Urgency};
use crate::node::cache::CacheState;
use crate::node::directory::DirectoryState;
use crate::node::table::MAX_PAGE_STATE;
use crate::node::{
    Action, Body, HoldId, MAX_HAND_OVER_PAGES, MAX_HAND_OVERS, MAX_HOLD_PAGES, MAX_HOLDS, MIN_CACHE_PAGES, Node, Source,
};
use crate::window::{Seen as SeenWords, Word};

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/coherence.md");
    std::fs::read_to_string(path).expect("docs/coherence.md")
}

/// The rows of the table whose first column has this heading, without the marks of code.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = document().replace('`', "");
    let rows = text.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |")));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.skip(2).take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn column(heading: &str) -> Vec<String> {
    table(heading).into_iter().map(|mut row| row.swap_remove(0)).collect()
}

fn access_name(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Write => "write",
    }
}

fn message_name(message: &Message) -> &'static str {
    match message {
        Message::Acquire { .. } => "Acquire",
        Message::Grant { .. } => "Grant",
        Message::Refuse { .. } => "Refuse",
        Message::Invalidate { .. } => "Invalidate",
        Message::InvalidateAck { .. } => "InvalidateAck",
        Message::Recall { .. } => "Recall",
        Message::WriteBack { .. } => "WriteBack",
        Message::HandOver { .. } => "HandOver",
        Message::Freeze { .. } => "Freeze",
        Message::Frozen { .. } => "Frozen",
        Message::Requests { .. } => "Requests",
        Message::Entries { .. } => "Entries",
        Message::Moved { .. } => "Moved",
        Message::Leave => "Leave",
        Message::LeaveAck => "LeaveAck",
    }
}

/// Whether the event happens at the page's home, and its name in the tables.
fn event(message: &Message) -> (bool, String) {
    let name = message_name(message);
    match message {
        Message::Acquire { urgency: Urgency::Ahead, .. } => (true, format!("{name} Ahead")),
        Message::Acquire { access, .. } => (true, format!("{name} {access:?}")),
        Message::WriteBack { keep, .. } => (true, format!("{name} {keep:?}")),
        Message::InvalidateAck { .. } | Message::HandOver { .. } | Message::Frozen { .. } | Message::Leave => {
            (true, name.to_owned())
        }
        Message::Grant { access, .. } => (false, format!("{name} {access:?}")),
        Message::Refuse { .. }
        | Message::Invalidate { .. }
        | Message::Recall { .. }
        | Message::Freeze { .. }
        | Message::Requests { .. }
        | Message::Entries { .. }
        | Message::Moved { .. }
        | Message::LeaveAck => (false, name.to_owned()),
    }
}

fn cache_name(state: CacheState) -> &'static str {
    match state {
        CacheState::Invalid => "Invalid",
        CacheState::ReadWait => "ReadWait",
        CacheState::WriteWait => "WriteWait",
        CacheState::UpgradeWait => "UpgradeWait",
        CacheState::AheadWait => "AheadWait",
        CacheState::AheadWanted => "AheadWanted",
        CacheState::GuardedWait => "GuardedWait",
        CacheState::GuardedLost => "GuardedLost",
        CacheState::Shared => "Shared",
        CacheState::Modified => "Modified",
    }
}

const CACHE_STATES: [CacheState; 10] = [
    CacheState::Invalid,
    CacheState::ReadWait,
    CacheState::WriteWait,
    CacheState::UpgradeWait,
    CacheState::AheadWait,
    CacheState::AheadWanted,
    CacheState::GuardedWait,
    CacheState::GuardedLost,
    CacheState::Shared,
    CacheState::Modified,
];

fn directory_name(state: DirectoryState, home: Rank) -> &'static str {
    match state {
        DirectoryState::Untouched => "Untouched",
        DirectoryState::Owned(owner) if owner == home => "Owned by home",
        DirectoryState::Owned(_) => "Owned by other",
        DirectoryState::Shared(_) => "Shared",
        DirectoryState::Recalling { owner } if owner == home => "Recalling home",
        DirectoryState::Recalling { .. } => "Recalling other",
        DirectoryState::Invalidating { .. } => "Invalidating",
        DirectoryState::Collecting { .. } => "Collecting",
    }
}

fn directory_states() -> [DirectoryState; 8] {
    [
        DirectoryState::Untouched,
        DirectoryState::Owned(Rank(0)),
        DirectoryState::Owned(Rank(1)),
        DirectoryState::Shared(RankSet::EMPTY),
        DirectoryState::Recalling { owner: Rank(0) },
        DirectoryState::Recalling { owner: Rank(1) },
        DirectoryState::Invalidating { waiting: RankSet::EMPTY },
        DirectoryState::Collecting { sharers: RankSet::EMPTY },
    ]
}

fn action_name(action: &Action) -> &'static str {
    match action {
        Action::Send { .. } => "Send",
        Action::Map { .. } => "Map",
        Action::Protect { .. } => "Protect",
        Action::Allow { .. } => "Allow",
        Action::Detach { .. } => "Detach",
        Action::Unmap { .. } => "Unmap",
        Action::Wake { .. } => "Wake",
        Action::HoldReady { .. } => "HoldReady",
        Action::Show { .. } => "Show",
        Action::Hide { .. } => "Hide",
        Action::GuardedRead { .. } => "GuardedRead",
        Action::HandedOver { .. } => "HandedOver",
    }
}

/// Messages of each kind about a page, as a peer could send them.
fn messages(page: Page, version: Version) -> Vec<Message> {
    let run = Run::one(page);
    let mut all = vec![
        Message::Refuse { run },
        Message::Invalidate { page },
        Message::InvalidateAck { page },
        Message::Acquire { run, access: Access::Read, urgency: Urgency::Ahead, have: Vec::new() },
    ];
    for access in [Access::Read, Access::Write] {
        all.push(Message::Acquire { run, access, urgency: Urgency::Demand, have: Vec::new() });
        for content in [Content::Data, Content::Current] {
            let granted = Granted { version: version.next(), content };
            all.push(Message::Grant { first: page, access, pages: vec![granted] });
        }
    }
    for keep in [Keep::Shared, Keep::Nothing] {
        all.push(Message::Recall { page, keep });
        all.push(Message::WriteBack { page, version, keep, content: Content::Data });
    }
    all
}

/// One of each kind that homes move by.
fn messages_of_hand_overs() -> [Message; 6] {
    let (page, run, to, members) = (Page(0), Run::one(Page(0)), Rank(1), RankSet::below(2));
    [
        Message::HandOver { run, to, members },
        Message::Freeze { run, to, members },
        Message::Frozen { run },
        Message::Requests { page, is_begun: false, requests: Vec::new() },
        Message::Entries { first: page, gone: RankSet::EMPTY, pages: Vec::new() },
        Message::Moved { run },
    ]
}

#[test]
fn the_lists_of_messages_and_actions_are_those_of_the_code() {
    let mut all = messages(Page(0), Version(1));
    all.extend(messages_of_hand_overs());
    all.extend([Message::Leave, Message::LeaveAck]);
    let sent: BTreeSet<_> = all.iter().map(message_name).collect();
    let written = column("message");
    assert_eq!(written.iter().map(String::as_str).collect::<BTreeSet<_>>(), sent);
    assert_eq!(written.len(), sent.len());
    let run = Run::one(Page(0));
    let actions = [
        Action::Send { to: Rank(0), message: Message::Refuse { run }, body: Body::None },
        Action::Map { run, access: Access::Read, source: Source::Zero },
        Action::Protect { run },
        Action::Allow { run },
        Action::Detach { run },
        Action::Unmap { run },
        Action::Wake { run },
        Action::HoldReady { id: HoldId(0) },
        Action::Show { page: Page(0), version: Version(1) },
        Action::Hide { page: Page(0) },
        Action::GuardedRead { home: Rank(0), page: Page(0) },
        Action::HandedOver { run, to: Rank(1) },
    ];
    assert_eq!(column("action"), actions.each_ref().map(action_name));
}

#[test]
fn the_lists_of_states_are_those_of_the_code_with_what_they_allow() {
    let may = |access: Option<Access>| match access {
        None => "",
        Some(Access::Read) => "read",
        Some(Access::Write) => "read, write",
    };
    let written: Vec<_> = table("cache state").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let real = CACHE_STATES.map(|state| (cache_name(state).to_owned(), may(state.access()).to_owned()));
    assert_eq!(written, real);
    let written: Vec<_> = table("directory state").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let home = Rank(0);
    let real = directory_states()
        .map(|state| (directory_name(state, home).to_owned(), may(state.own_access(home)).to_owned()));
    assert_eq!(written, real);
}

#[test]
fn the_limits_are_those_of_the_code() {
    let real = [
        ("MAX_RANKS", u64::from(MAX_RANKS)),
        ("MAX_RUN", u64::from(MAX_RUN)),
        ("STRIPE_PAGES", u64::from(STRIPE_PAGES)),
        ("MAX_ENCODED", crate::codec::MAX_ENCODED as u64),
        ("MIN_CACHE_PAGES", u64::from(MIN_CACHE_PAGES)),
        ("MAX_HOLDS", MAX_HOLDS as u64),
        ("MAX_HOLD_PAGES", u64::from(MAX_HOLD_PAGES)),
        ("MAX_STREAMS", crate::node::read_ahead::MAX_STREAMS as u64),
        ("MAX_PATIENCE", u64::from(crate::node::patience::MAX_PATIENCE)),
        ("MAX_HAND_OVER_PAGES", u64::from(MAX_HAND_OVER_PAGES)),
        ("MAX_HAND_OVERS", MAX_HAND_OVERS as u64),
        ("MAX_COMPANIONS", u64::from(crate::node::MAX_COMPANIONS)),
        ("MAX_SLOTS", u64::from(crate::window::MAX_SLOTS)),
        ("SLOT_BYTES", crate::window::SLOT_BYTES as u64),
        ("MAX_HINTS", u64::from(crate::node::hints::MAX_HINTS)),
        ("MAX_WAIT", u64::from(crate::node::hints::MAX_WAIT)),
        ("LEAVE_STEP", u64::from(crate::node::LEAVE_STEP)),
        ("MAX_SCAN", crate::node::eviction::MAX_SCAN as u64),
        ("MAX_PAGE_STATE", MAX_PAGE_STATE as u64),
    ];
    let written: Vec<_> = table("limit").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(written, real.map(|(name, value)| (name.to_owned(), value.to_string())));
}

/// Which table the page's state at a node belongs to, and its name there.
fn state(node: &Node, page: Page) -> (bool, &'static str) {
    let home = node.config.rank;
    if node.config.homes.home(page) == Some(home) {
        (true, directory_name(node.directory.table.get(page).state, home))
    } else {
        (false, cache_name(node.cache.table.get(page).state))
    }
}

/// The event that an input is for a page in the first place, if it is about it.
fn primary(input: &Input, page: Page) -> Option<String> {
    match input {
        Input::Fault(at, access) => (*at == page).then(|| access_name(*access).to_owned()),
        Input::Message(_, message) => message.run().contains(page).then(|| event(message).1),
        Input::Collected(at, _) => (*at == page).then(|| "marks".to_owned()),
        Input::GuardedRead(at, seen) => {
            (*at == page).then(|| if seen.version_of(page).is_some() { "hit" } else { "miss" }.to_owned())
        }
        Input::Hold(..) | Input::Release(_) | Input::Timeout | Input::HandOver(..) => None,
    }
}

/// Notes the change of each page, as a line: at home or not, before, the event if there was one for the page itself, after.
fn watch(seen: &mut Seen, input: &Input, before: &Node, after: &Node) {
    for page in (0..before.config.homes.pages()).map(Page) {
        let (at_home, from) = state(before, page);
        let (_, to) = state(after, page);
        let was_to_go = before.deferrals.contains(page) && !after.deferrals.contains(page);
        match primary(input, page).or_else(|| was_to_go.then(|| "free".to_owned())) {
            Some(event) => seen.insert(format!("{at_home}|{from}|{event}|{to}")),
            None if from != to => seen.insert(format!("{at_home}|{from}||{to}")),
            None => false,
        };
    }
}

/// Everything seen in random histories, and in nodes of these that are given a message that may or may not be.
fn seen() -> Seen {
    let mut seen = Seen::new();
    for seed in 1..=400 {
        let (mut random, mut machine) = random_machine(seed);
        machine.watch = Some(watch);
        let mut holds = 0;
        for _ in 0..250 {
            step(&mut machine, &mut random, &mut holds);
            let node = &machine.nodes[usize::from(random.rank(3))];
            let page = Page(u32::try_from(random.below(12)).expect("a page"));
            let home = node.config.homes.home(page).expect("a home");
            let is_home = home == node.config.rank;
            let (from, version) = if is_home {
                (Rank(random.rank(3)), node.directory.table.get(page).version)
            } else {
                (home, node.cache.table.get(page).version)
            };
            let sent = messages(page, version).into_iter().map(|message| Input::Message(from, message));
            // Also faults on pages that are there, as those that were on their way to the node when the page came.
            let faults = [Access::Read, Access::Write].map(|access| Input::Fault(page, access));
            // And reads that end although the node has been told something else meanwhile.
            let word = Word::shown(page, Version(1)).expect("a word");
            let is_read = state(node, page).1.starts_with("Guarded");
            let read = is_read.then_some(Input::GuardedRead(page, SeenWords { word, is_whole: true }));
            for input in sent.chain(faults).chain(read) {
                let mut after = node.clone();
                if input.happen(&mut after, machine.now).is_ok() {
                    watch(&mut machine.seen, &input, node, &after);
                }
            }
        }
        seen.append(&mut machine.seen);
    }
    seen
}

/// A row of a table of transitions: before, event, after.
type Row = (String, String, String);

fn rows(heading: &str) -> Vec<Row> {
    table(heading).into_iter().map(|row| (row[0].clone(), row[1].clone(), row[2].clone())).collect()
}

/// Whether a change follows from the rows: first that of the event, if there is one, then any that an input may cause beside it.
fn follows(rows: &[Row], beside: &[&str], from: &str, event: &str, to: &str) -> bool {
    let mut reached: BTreeSet<&str> = if event.is_empty() {
        [from].into()
    } else {
        rows.iter().filter(|row| row.0 == from && row.1 == event).map(|row| row.2.as_str()).collect()
    };
    for _ in 0..3 {
        let further = rows.iter().filter(|row| reached.contains(row.0.as_str()) && beside.contains(&row.1.as_str()));
        let further: Vec<&str> = further.map(|row| row.2.as_str()).collect();
        reached.extend(further);
    }
    reached.contains(to)
}

/// What is wrong with a table: changes that do not follow from it, and rows that were never seen.
fn faults(rows: &[Row], beside: &[&str], seen: &[Row]) -> Vec<String> {
    let mut faults = Vec::new();
    for (from, event, to) in seen {
        if !follows(rows, beside, from, event, to) {
            faults.push(format!("not in the table: {from}, {event}: {to}"));
        }
    }
    for row in rows {
        let is_seen = |(from, event, to): &Row| {
            *from == row.0 && *to == row.2 && (*event == row.1 || event.is_empty() && beside.contains(&row.1.as_str()))
        };
        if !seen.iter().any(is_seen) {
            faults.push(format!("never seen: {row:?}"));
        }
    }
    faults
}

/// Events that an input may cause beside the one it is: devices ask again, room is made, guesses are made, waiting ends.
const BESIDE_AT_CACHER: [&str; 5] = ["read", "write", "ahead", "room", "free"];
/// The same at the home, where the queue is served as well.
const BESIDE_AT_HOME: [&str; 8] = ["read", "write", "touch", "near", "free", "slot", "Acquire Read", "Acquire Write"];

#[test]
fn the_transitions_are_those_of_the_code() {
    let (mut at_home, mut at_cacher) = (Vec::new(), Vec::new());
    for line in seen() {
        let cells: Vec<String> = line.split('|').map(str::to_owned).collect();
        let row = (cells[1].clone(), cells[2].clone(), cells[3].clone());
        if cells[0] == "true" { at_home.push(row) } else { at_cacher.push(row) }
    }
    let (home, cacher) = (rows("home in"), rows("cacher in"));
    assert!(home.len() > 60 && cacher.len() > 60, "{} and {} rows", home.len(), cacher.len());
    let mut all = faults(&home, &BESIDE_AT_HOME, &at_home);
    all.extend(faults(&cacher, &BESIDE_AT_CACHER, &at_cacher));
    assert!(all.is_empty(), "{}", all.join("\n"));

    // A row that is missing, and one that is too many, are noticed.
    let is_planted = |row: &Row| row.0 == "Modified" && row.1 == "Recall" && row.2 == "Shared";
    let without: Vec<Row> = cacher.iter().filter(|row| !is_planted(row)).cloned().collect();
    assert_eq!(
        faults(&without, &[], &at_cacher).iter().filter(|fault| fault.contains("Modified, Recall: Shared")).count(),
        1
    );
    let wrong = ("Shared".to_owned(), "Recall".to_owned(), "Invalid".to_owned());
    assert_eq!(faults(&[&cacher[..], &[wrong]].concat(), &BESIDE_AT_CACHER, &at_cacher).len(), 1);
}

/// Notes what a page's entry becomes at its old home when it moves: the states before and after.
fn watch_moves(seen: &mut Seen, input: &Input, before: &Node, after: &Node) {
    let Input::Message(_, message) = input else { return };
    for page in message.run().pages() {
        let ((was_home, from), (is_home, to)) = (state(before, page), state(after, page));
        if was_home && !is_home {
            seen.insert(format!("{from}|{to}"));
        }
    }
}

#[test]
fn what_becomes_of_entries_that_move_is_as_written() {
    let mut seen = Seen::new();
    for seed in 1..=400 {
        let (mut random, mut machine) = random_machine(seed);
        machine.watch = Some(watch_moves);
        let mut holds = 0;
        for _ in 0..400 {
            step(&mut machine, &mut random, &mut holds);
            if random.below(8) == 0 {
                hand_over(&mut machine, &mut random);
            }
        }
        seen.append(&mut machine.seen);
    }
    let lines = |row: Vec<String>| {
        let line = |to| format!("{}|{to}", row[0]);
        row[1].split(", ").map(line).collect::<Vec<_>>()
    };
    let written: Seen = table("old home in").into_iter().flat_map(lines).collect();
    let missing: Vec<_> = seen.difference(&written).collect();
    let never: Vec<_> = written.difference(&seen).collect();
    assert!(missing.is_empty() && never.is_empty(), "not in the table: {missing:#?}, never seen: {never:#?}");
}
