//! All interleavings of moves and interrupts on a few ranks, of which one may join and leave meanwhile: the real core, over channels that keep their order between two ranks.
//!
//! Interrupts are numbered by their sender, so that a lost one, one that comes twice and one that overtakes another are seen. A planted
//! bug for each thing that the protocol relies on shows that the search would find it.

use std::collections::{BTreeMap, HashSet, VecDeque};

use vincs_coherence::id::Rank;

use super::{Moves, Owners, Step};

/// What is wrong with the ranks of a model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Bug {
    None,
    /// The owner lets go without knowing that the others send elsewhere.
    DepartsAtOnce,
    /// A rank says that it sends elsewhere before it does.
    TellsBeforeItRepoints,
    /// A sender looks up the place of a vCPU, and sends there later.
    LooksUpEarly,
    /// A rank takes what comes for a vCPU only if it knows that it has it.
    DropsWhatComesEarly,
    /// What came for a vCPU that leaves is not taken along.
    LeavesItsMail,
    /// A rank joins while a vCPU is on its way.
    JoinsMeanwhile,
    /// A rank leaves without waiting until all has arrived that it sent.
    LeavesInAHurry,
    /// A rank leaves while a vCPU is on its way.
    LeavesMeanwhile,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Packet {
    /// The sender's interrupt with this number.
    Interrupt(u16, u8),
    Move(Rank, Rank),
    Repointed,
    /// With what the vCPU has taken in.
    State(Vec<(u16, u8)>),
    Arrived,
    /// The last rank takes part; the vCPU is there.
    Come(Rank),
    Drain,
    Parting,
    Parted,
    Drained,
    Gone,
}

/// How far the last rank is, where it joins and leaves: as rank 0 has it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Guest {
    Outside,
    Inside,
    Leaving,
    Drained,
    Left,
}

/// One rank. There is one vCPU: moves of different ones have nothing to do with each other.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Node {
    moves: Moves,
    /// Where it sends for the vCPU.
    place: u16,
    /// What waits for the vCPU here, by sender and number.
    mailbox: Vec<(u16, u8)>,
    /// What the vCPU has taken in, while it is here.
    vcpu: Option<Vec<(u16, u8)>>,
    /// Number of the next interrupt, and the place that was looked up for it early.
    next: u8,
    early: Option<u16>,
    /// Where the vCPU goes at its next instruction boundary.
    departs_to: Option<u16>,
    /// A step that is put off by the planted bug.
    late: Option<u16>,
    /// It may send interrupts: it takes part, and has not been told to leave.
    sends: bool,
    /// Who has not answered that all has arrived which it sent, when it leaves.
    unanswered: u16,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct World {
    nodes: Vec<Node>,
    owners: Owners,
    /// From and to.
    channels: BTreeMap<(u16, u16), VecDeque<Packet>>,
    moves_left: u8,
    guest: Option<Guest>,
}

/// How much happens.
#[derive(Clone, Copy)]
struct Scope {
    ranks: u16,
    moves: u8,
    /// Of each rank.
    interrupts: [u8; 3],
    /// The last rank joins, and leaves.
    guest: bool,
    bug: Bug,
}

impl World {
    fn new(scope: Scope) -> Self {
        let first = scope.ranks - u16::from(scope.guest);
        let node = |rank: u16| Node {
            moves: Moves::new(Rank(rank), (0..first).map(Rank).filter(|other| *other != Rank(rank)), 1),
            place: 0,
            mailbox: Vec::new(),
            vcpu: (rank == 0).then(Vec::new),
            next: 0,
            early: None,
            departs_to: None,
            late: None,
            sends: rank < first,
            unanswered: 0,
        };
        Self {
            nodes: (0..scope.ranks).map(node).collect(),
            owners: Owners::new(first, 1),
            channels: BTreeMap::new(),
            moves_left: scope.moves,
            guest: scope.guest.then_some(Guest::Outside),
        }
    }

    fn send(&mut self, from: u16, to: u16, packet: Packet) {
        self.channels.entry((from, to)).or_default().push_back(packet);
    }

    fn steps(&mut self, rank: u16, steps: Vec<Step>, bug: Bug) {
        for step in steps {
            let node = &mut self.nodes[usize::from(rank)];
            match step {
                Step::Repoint(_, to) if bug == Bug::TellsBeforeItRepoints => node.late = Some(to.0),
                Step::Repoint(_, to) => node.place = to.0,
                Step::TellRepointed(_, to) => self.send(rank, to.0, Packet::Repointed),
                Step::Depart(_, to) => node.departs_to = Some(to.0),
            }
        }
    }

    fn ordered(&mut self, rank: u16, from: Rank, to: Rank, bug: Bug) -> Result<(), String> {
        let steps = self.nodes[usize::from(rank)].moves.ordered(0, from, to).map_err(|error| error.to_string())?;
        self.steps(rank, steps, bug);
        if bug == Bug::DepartsAtOnce && rank == from.0 {
            let node = &mut self.nodes[usize::from(rank)];
            (node.place, node.departs_to) = (to.0, Some(to.0));
        }
        Ok(())
    }

    fn receive(&mut self, from: u16, to: u16, packet: Packet, bug: Bug) -> Result<(), String> {
        match packet {
            Packet::Interrupt(sender, number) => {
                let node = &mut self.nodes[usize::from(to)];
                if bug != Bug::DropsWhatComesEarly || node.vcpu.is_some() {
                    node.mailbox.push((sender, number));
                }
            }
            Packet::Move(from, goes_to) => self.ordered(to, from, goes_to, bug)?,
            Packet::Repointed => {
                let moves = &mut self.nodes[usize::from(to)].moves;
                match moves.repointed(Rank(from), 0) {
                    // It has gone already.
                    _ if bug == Bug::DepartsAtOnce => {}
                    Ok(steps) => self.steps(to, steps, bug),
                    Err(error) => return Err(error.to_string()),
                }
            }
            Packet::State(taken) => {
                let node = &mut self.nodes[usize::from(to)];
                node.moves.arrives(Rank(from), 0).map_err(|error| error.to_string())?;
                node.vcpu = Some(taken);
                if to == 0 {
                    self.owners.arrived(Rank(0), 0).map_err(|error| error.to_string())?;
                } else {
                    self.send(to, 0, Packet::Arrived);
                }
            }
            Packet::Arrived => self.owners.arrived(Rank(from), 0).map_err(|error| error.to_string())?,
            Packet::Come(at) => {
                let last = self.last();
                let node = &mut self.nodes[usize::from(to)];
                if to == last {
                    (0..last).for_each(|rank| node.moves.admit(Rank(rank)));
                    (node.place, node.sends) = (at.0, true);
                } else {
                    node.moves.admit(Rank(last));
                }
            }
            Packet::Drain => {
                let last = self.last();
                let node = &mut self.nodes[usize::from(to)];
                (node.sends, node.unanswered) = (false, last);
                if bug == Bug::LeavesInAHurry {
                    self.send(to, 0, Packet::Drained);
                } else {
                    (0..last).for_each(|other| self.send(to, other, Packet::Parting));
                }
            }
            Packet::Parting => self.send(to, from, Packet::Parted),
            Packet::Parted => {
                let node = &mut self.nodes[usize::from(to)];
                node.unanswered -= 1;
                if node.unanswered == 0 {
                    self.send(to, 0, Packet::Drained);
                }
            }
            Packet::Drained => self.guest = Some(Guest::Drained),
            Packet::Gone => self.gone(to, bug),
        }
        Ok(())
    }

    /// The rank that joins and leaves.
    fn last(&self) -> u16 {
        u16::try_from(self.nodes.len() - 1).unwrap()
    }

    fn gone(&mut self, rank: u16, bug: Bug) {
        let last = self.last();
        if rank != last {
            let steps = self.nodes[usize::from(rank)].moves.dismiss(Rank(last));
            self.steps(rank, steps, bug);
        }
    }

    /// What rank 0 may do for the rank that joins and leaves.
    fn guest_goes_on(&self, bug: Bug) -> Option<Self> {
        let (last, rests) = (self.last(), self.owners.are_at_rest());
        let mut world = self.clone();
        let others = || 1..=last;
        match self.guest? {
            Guest::Outside if rests || bug == Bug::JoinsMeanwhile => {
                world.guest = Some(Guest::Inside);
                world.owners.open(Rank(last));
                world.nodes[0].moves.admit(Rank(last));
                let at = self.owners.all()[0].at;
                others().for_each(|other| world.send(0, other, Packet::Come(at)));
            }
            Guest::Inside if !self.owners.involve(Rank(last)) => {
                world.guest = Some(Guest::Leaving);
                world.owners.close(Rank(last));
                world.send(0, last, Packet::Drain);
            }
            Guest::Drained if rests || bug == Bug::LeavesMeanwhile => {
                world.guest = Some(Guest::Left);
                others().for_each(|other| world.send(0, other, Packet::Gone));
                world.gone(0, bug);
                // Its connections close: what it has not read is lost, what it sent is not.
                world.channels.retain(|(_, to), _| *to != last);
            }
            Guest::Outside | Guest::Inside | Guest::Leaving | Guest::Drained | Guest::Left => return None,
        }
        Some(world)
    }

    /// Every world that may be next.
    fn next(&self, scope: Scope) -> Result<Vec<Self>, String> {
        let mut next = Vec::new();
        for (from, to) in self.channels.keys().copied() {
            let mut world = self.clone();
            let channel = world.channels.get_mut(&(from, to)).unwrap();
            let packet = channel.pop_front().unwrap();
            if channel.is_empty() {
                world.channels.remove(&(from, to));
            }
            world.receive(from, to, packet, scope.bug)?;
            next.push(world);
        }
        for rank in 0..scope.ranks {
            let index = usize::from(rank);
            let node = &self.nodes[index];
            let sends = node.sends && node.next < scope.interrupts[index];
            if sends && scope.bug == Bug::LooksUpEarly && node.early.is_none() {
                let mut world = self.clone();
                world.nodes[index].early = Some(node.place);
                next.push(world);
            } else if sends {
                let mut world = self.clone();
                let node = &mut world.nodes[index];
                let (place, number) = (node.early.take().unwrap_or(node.place), node.next);
                node.next += 1;
                if place == rank {
                    node.mailbox.push((rank, number));
                } else {
                    world.send(rank, place, Packet::Interrupt(rank, number));
                }
                next.push(world);
            }
            if node.vcpu.is_some() && !node.mailbox.is_empty() {
                let mut world = self.clone();
                world.nodes[index].collect();
                next.push(world);
            }
            if let Some(late) = node.late {
                let mut world = self.clone();
                (world.nodes[index].place, world.nodes[index].late) = (late, None);
                next.push(world);
            }
            if let Some(to) = node.departs_to {
                let mut world = self.clone();
                let node = &mut world.nodes[index];
                node.departs_to = None;
                if scope.bug != Bug::LeavesItsMail {
                    node.collect();
                }
                let state = node.vcpu.take().ok_or("a vCPU departs that is not here")?;
                world.send(rank, to, Packet::State(state));
                next.push(world);
            }
        }
        next.extend(self.guest_goes_on(scope.bug));
        // A rank that comes or goes is not kept waiting by moves that are ordered later.
        let is_about_to_go = self.guest == Some(Guest::Drained) && scope.bug != Bug::LeavesMeanwhile;
        if self.moves_left > 0 && !is_about_to_go {
            for to in (0..scope.ranks).map(Rank) {
                let mut world = self.clone();
                let Ok(Some(from)) = world.owners.order(0, to) else { continue };
                world.moves_left -= 1;
                let there = match self.guest {
                    Some(Guest::Outside | Guest::Left) => scope.ranks - 1,
                    _ => scope.ranks,
                };
                (1..there).for_each(|other| world.send(0, other, Packet::Move(from, to)));
                world.ordered(0, from, to, scope.bug)?;
                next.push(world);
            }
        }
        Ok(next)
    }

    /// The vCPU is in one place at most, and what it has taken in of each sender is in order, without a gap or a repetition.
    fn check(&self, scope: Scope) -> Result<(), String> {
        let here: Vec<_> = self.nodes.iter().filter_map(|node| node.vcpu.as_ref()).collect();
        if here.len() > 1 {
            return Err("the vCPU is in two places".into());
        }
        for taken in here {
            for sender in 0..scope.ranks {
                let of = taken.iter().filter(|(from, _)| *from == sender).map(|(_, number)| *number);
                if of.clone().zip(0..).any(|(number, expected)| number != expected) {
                    return Err(format!("of rank {sender} came {:?}", of.collect::<Vec<_>>()));
                }
            }
        }
        Ok(())
    }

    /// Nothing can happen any more: all has come, and all know where the vCPU is.
    fn check_end(&self) -> Result<(), String> {
        let at = self.owners.all()[0];
        let taken = self.nodes[usize::from(at.at.0)].vcpu.as_ref().ok_or("the vCPU is not where rank 0 has it")?;
        // The rank that leaves may do so before it has sent all of them.
        let all = self.nodes.iter().map(|node| usize::from(node.next)).sum::<usize>();
        if taken.len() != all {
            return Err(format!("{} of {all} interrupts came", taken.len()));
        }
        let there = self.nodes.len() - usize::from(self.guest.is_some());
        if at.to.is_some() || self.nodes.iter().take(there).any(|node| node.place != at.at.0) {
            return Err("a move is not over".into());
        }
        Ok(())
    }
}

impl Node {
    fn collect(&mut self) {
        if let Some(vcpu) = &mut self.vcpu {
            vcpu.append(&mut self.mailbox);
        }
    }
}

/// Goes through all that can happen; how many worlds there are, or what is wrong in one.
fn explore(scope: Scope) -> Result<usize, String> {
    let mut seen = HashSet::from([World::new(scope)]);
    let mut left: Vec<World> = seen.iter().cloned().collect();
    while let Some(world) = left.pop() {
        world.check(scope)?;
        let next = world.next(scope)?;
        if next.is_empty() {
            world.check_end()?;
        }
        for world in next {
            if seen.insert(world.clone()) {
                left.push(world);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn every_interrupt_comes_once_and_in_order_whatever_moves() {
    for (ranks, moves, interrupts) in [(2, 3, [2, 2, 0]), (3, 2, [1, 1, 1]), (3, 2, [0, 1, 2]), (3, 3, [1, 0, 1])] {
        let worlds = explore(Scope { ranks, moves, interrupts, guest: false, bug: Bug::None });
        println!("{ranks} ranks, {moves} moves, {interrupts:?} interrupts: {worlds:?} worlds");
        assert!(worlds.is_ok_and(|worlds| worlds > 1000));
    }
}

#[test]
fn planted_bugs_are_found() {
    let bugs = [
        Bug::DepartsAtOnce,
        Bug::TellsBeforeItRepoints,
        Bug::LooksUpEarly,
        Bug::DropsWhatComesEarly,
        Bug::LeavesItsMail,
    ];
    for bug in bugs {
        let found = explore(Scope { ranks: 3, moves: 1, interrupts: [1, 1, 2], guest: false, bug });
        println!("{bug:?}: {found:?}");
        assert!(found.is_err(), "{bug:?} is not found");
    }
}

#[test]
fn a_rank_joins_and_leaves_whatever_moves_and_is_sent() {
    for (moves, interrupts) in [(2, [1, 1, 1]), (3, [0, 1, 1]), (2, [0, 0, 2])] {
        let worlds = explore(Scope { ranks: 3, moves, interrupts, guest: true, bug: Bug::None });
        println!("a guest, {moves} moves, {interrupts:?} interrupts: {worlds:?} worlds");
        assert!(worlds.is_ok_and(|worlds| worlds > 1000));
    }
}

#[test]
fn planted_bugs_of_ranks_that_join_and_leave_are_found() {
    for bug in [Bug::JoinsMeanwhile, Bug::LeavesInAHurry, Bug::LeavesMeanwhile] {
        let found = explore(Scope { ranks: 3, moves: 2, interrupts: [0, 1, 1], guest: true, bug });
        println!("{bug:?}: {found:?}");
        assert!(found.is_err(), "{bug:?} is not found");
    }
}
