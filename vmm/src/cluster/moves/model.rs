//! All interleavings of moves and interrupts on a few ranks: the real core, over channels that keep their order between two ranks.
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
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct World {
    nodes: Vec<Node>,
    owners: Owners,
    /// From and to.
    channels: BTreeMap<(u16, u16), VecDeque<Packet>>,
    moves_left: u8,
}

/// How much happens.
#[derive(Clone, Copy)]
struct Scope {
    ranks: u16,
    moves: u8,
    /// Of each rank.
    interrupts: [u8; 3],
    bug: Bug,
}

impl World {
    fn new(scope: Scope) -> Self {
        let node = |rank| Node {
            moves: Moves::new(Rank(rank), (0..scope.ranks).map(Rank).filter(|other| *other != Rank(rank)), 1),
            place: 0,
            mailbox: Vec::new(),
            vcpu: (rank == 0).then(Vec::new),
            next: 0,
            early: None,
            departs_to: None,
            late: None,
        };
        Self {
            nodes: (0..scope.ranks).map(node).collect(),
            owners: Owners::new(scope.ranks, 1),
            channels: BTreeMap::new(),
            moves_left: scope.moves,
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
        }
        Ok(())
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
            let sends = node.next < scope.interrupts[index];
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
        if self.moves_left > 0 {
            for to in (0..scope.ranks).map(Rank) {
                let mut world = self.clone();
                let Ok(Some(from)) = world.owners.order(0, to) else { continue };
                world.moves_left -= 1;
                (1..scope.ranks).for_each(|other| world.send(0, other, Packet::Move(from, to)));
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
    fn check_end(&self, scope: Scope) -> Result<(), String> {
        let at = self.owners.all()[0];
        let taken = self.nodes[usize::from(at.at.0)].vcpu.as_ref().ok_or("the vCPU is not where rank 0 has it")?;
        let all = scope.interrupts.map(usize::from).iter().sum::<usize>();
        if taken.len() != all {
            return Err(format!("{} of {all} interrupts came", taken.len()));
        }
        if at.to.is_some() || self.nodes.iter().any(|node| node.place != at.at.0) {
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
            world.check_end(scope)?;
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
        let worlds = explore(Scope { ranks, moves, interrupts, bug: Bug::None });
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
        let found = explore(Scope { ranks: 3, moves: 1, interrupts: [1, 1, 2], bug });
        println!("{bug:?}: {found:?}");
        assert!(found.is_err(), "{bug:?} is not found");
    }
}
