//! Rank 0's side of `--join`: lets further ranks into the machine while it runs, one after the other.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use vincs_transport_tcp::latecomers::Latecomers;
use vincs_vmm::cluster::{MemberState, Share};
use vincs_vmm::machine::{Controller, VcpuPlace};

use crate::cluster::others::{Others, shared};
use crate::cluster::welcome::Welcome;
use crate::wireup::channel::{self, Channel, ChannelError};
use crate::wireup::difference;
use crate::wireup::door::{Visitor, show_out};
use crate::wireup::message::{Hello, Roster, Seat, ToCoordinator, ToMember};
use crate::wireup::selection::Choice;

/// How long each step of a rank that joins may take; connecting with all others is the longest, and has 30 s of its own.
const STEP_TIME: Duration = Duration::from_secs(60);

/// How often it is looked whether the machine has ended.
const LOOK_TIME: Duration = Duration::from_millis(200);

/// How long a rank that leaves is waited for before another joins: who connects with all does not find one that goes meanwhile.
const LEAVER_TIME: Duration = Duration::from_secs(30);

/// What rank 0 needs to let ranks join.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// Who comes to the door.
    pub(crate) visitors: Receiver<Visitor>,
    /// What rank 0 says of itself: others have to be like it.
    pub(crate) own: Hello,
    pub(crate) roster: Roster,
    /// Who has connected with rank 0; nothing where nobody can.
    pub(crate) latecomers: Option<Latecomers>,
}

/// Lets ranks in until it is dropped.
#[derive(Debug)]
pub(crate) struct Steward {
    closed: Arc<AtomicBool>,
    _welcome: Option<Welcome>,
}

impl Drop for Steward {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

impl Steward {
    /// Begins to let ranks in.
    ///
    /// # Errors
    /// There is no thread.
    pub(crate) fn start(entrance: Entrance, controller: Controller, others: Others) -> io::Result<Self> {
        let closed = Arc::new(AtomicBool::new(false));
        let Entrance { visitors, own, roster, latecomers } = entrance;
        let welcome = latecomers.zip(controller.greeter());
        let welcome = welcome.map(|(latecomers, greeter)| Welcome::start(latecomers, greeter)).transpose()?;
        let places = roster.addresses.iter().zip(&roster.boots).zip(&roster.busy);
        let places = (0..).zip(places.map(|((address, boot), busy)| (*address, boot.clone(), *busy))).collect();
        let mut desk = Desk { own, roster, places, controller, others, closed: Arc::clone(&closed) };
        let serve = move || {
            while !desk.is_closed() {
                match visitors.recv_timeout(LOOK_TIME) {
                    Ok(visitor) => desk.receive(visitor),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        thread::Builder::new().name("steward".into()).spawn(serve)?;
        Ok(Self { closed, _welcome: welcome })
    }
}

/// What the thread has.
struct Desk {
    own: Hello,
    roster: Roster,
    /// Where each rank listens that is or was there, the boot of its host, and how busy it has seen that.
    places: BTreeMap<u16, (SocketAddr, String, u32)>,
    controller: Controller,
    others: Others,
    closed: Arc<AtomicBool>,
}

impl Desk {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Lets a visitor in, or tells it why not.
    fn receive(&mut self, visitor: Visitor) {
        if !visitor.introduction.joins() {
            let line = "the machine is complete: it runs already, or has just ended; --join lets a rank in".to_owned();
            return show_out(visitor, line);
        }
        let host = visitor.introduction.host.clone();
        if let Some(line) = self.obstacle(&visitor) {
            return show_out(visitor, line);
        }
        let Visitor { hello, mut channel, .. } = visitor;
        let hello = hello.unwrap_or_default();
        self.wait_for_leavers();
        // A seat is used once: only who listens gets one.
        let address = match self.listening(&hello, &mut channel) {
            Ok(address) => address,
            Err(line) => return refuse(&mut channel, &line),
        };
        let Some(rank) = self.controller.reserve() else {
            let line = if self.is_closed() { "the machine has ended" } else { "all places for ranks have been used" };
            return refuse(&mut channel, line);
        };
        self.places.insert(rank, (address, hello.boot_id.clone(), hello.busy));
        match self.admit(rank, &hello, &host, &mut channel) {
            Err(line) if !self.controller.abandon(rank) => {
                tracing::info!(rank, host, line, "a rank does not join");
                refuse(&mut channel, &line);
            }
            // Also one that has come just when it was given up.
            Ok(()) | Err(_) => {
                tracing::info!(rank, host, "a rank has joined");
                // It notices by its channels when that does not come.
                let _ = channel.send(&ToMember::Joined, soon());
                self.others.add(rank, host, channel);
            }
        }
    }

    /// Why a rank cannot be one of this machine's, if it cannot.
    fn obstacle(&self, visitor: &Visitor) -> Option<String> {
        if let Choice::Rdma(_) = self.roster.settings.transport {
            return Some(
                "the machine is connected by RDMA, which ranks cannot join yet: start it with --transport tcp"
                    .to_owned(),
            );
        }
        if self.roster.settings.relaxed > 0 {
            return Some(
                "the machine has relaxed memory, which keeps to the ranks that started it: start it without --relaxed"
                    .to_owned(),
            );
        }
        let hello = visitor.hello.clone().unwrap_or_default();
        difference::of_joiner(&self.own, &visitor.introduction, &hello)
    }

    fn wait_for_leavers(&self) {
        let until = Instant::now() + LEAVER_TIME;
        let is_leaving = |(_, state): &(u16, MemberState)| *state == MemberState::Leaving;
        while !self.is_closed() && Instant::now() < until && self.controller.members().iter().any(is_leaving) {
            thread::sleep(LOOK_TIME);
        }
    }

    /// Has a rank listen, for those that join later; where.
    fn listening(&self, hello: &Hello, channel: &mut Channel) -> Result<SocketAddr, String> {
        let place = self.place_of(hello, channel)?;
        channel.send(&ToMember::Listen(place), soon()).map_err(gone)?;
        let answer = channel.receive(soon()).map_err(gone)?;
        let ToCoordinator::Listening(address) = answer else { return Err(said(answer)) };
        if address.ip() != place {
            return Err(format!(
                "it listens at {address}, and was to listen at {place}: use the same vincs everywhere"
            ));
        }
        Ok(address)
    }

    /// Takes a rank that listens through all further steps until it takes part.
    fn admit(&self, rank: u16, hello: &Hello, host: &str, channel: &mut Channel) -> Result<(), String> {
        let seat = self.seat(rank, host, hello);
        channel.send(&ToMember::Seat(Box::new(seat)), soon()).map_err(gone)?;
        let answer = channel.receive(soon()).map_err(gone)?;
        if answer != ToCoordinator::Connected {
            return Err(said(answer));
        }
        let joined = self.controller.admit(rank, self.share(rank, hello));
        channel.send(&ToMember::Go, soon()).map_err(gone)?;
        self.wait_until_joined(&joined, channel)
    }

    /// What a rank's host has for it.
    fn share(&self, rank: u16, hello: &Hello) -> Share {
        let Hello { processors, busy, memory, .. } = *hello;
        let hosts = self.places.iter().map(|(rank, (_, boot, busy))| (*rank, boot.as_str(), *busy));
        shared(hosts, &hello.boot_id, Share { host: rank.into(), processors, busy, memory })
    }

    fn wait_until_joined(&self, joined: &Receiver<Result<(), String>>, channel: &mut Channel) -> Result<(), String> {
        let until = Instant::now() + STEP_TIME;
        loop {
            match joined.recv_timeout(LOOK_TIME) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => return Err("the machine has ended".to_owned()),
                // It says nothing more, unless it fails.
                Err(RecvTimeoutError::Timeout) if channel::wait_for([&*channel], Duration::ZERO).contains(&true) => {
                    return Err(said(channel.receive(soon()).map_err(gone)?));
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                    return Err(what_it_waits_for(&self.controller.places()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Where a rank that joins is to listen for those that join later.
    fn place_of(&self, hello: &Hello, channel: &Channel) -> Result<IpAddr, String> {
        let zero = self.roster.addresses.first().ok_or("rank 0 listens nowhere")?.ip();
        let peer = channel.peer().ip();
        let is_elsewhere = hello.boot_id != self.own.boot_id;
        if is_elsewhere && self.roster.addresses.iter().any(|address| address.ip().is_loopback()) {
            let line =
                "the machine's ranks listen on their own host only: start it with --net-if, the network of all hosts";
            return Err(line.to_owned());
        }
        let place = hello.net_if.unwrap_or(if peer.is_loopback() { zero } else { peer });
        check_place(place, self.roster.addresses.iter().map(SocketAddr::ip))?;
        Ok(place)
    }

    fn seat(&self, rank: u16, host: &str, hello: &Hello) -> Seat {
        let takes_part = |(_, state): &(u16, MemberState)| matches!(state, MemberState::Running | MemberState::Leaving);
        let members = self.controller.members();
        let there = members.iter().filter(|member| takes_part(member)).map(|(rank, _)| *rank);
        let there: Vec<_> = there.filter_map(|rank| Some((rank, self.places.get(&rank)?))).collect();
        let here = there.iter().filter(|(_, (_, boot, _))| *boot == hello.boot_id).count() + 1;
        let started = u32::try_from(self.roster.addresses.len()).unwrap_or(u32::MAX);
        let mut hosts: Vec<(u16, String)> = self.others.hosts().into_iter().collect();
        hosts.push((rank, host.to_owned()));
        Seat {
            rank: rank.into(),
            started,
            peers: there.into_iter().map(|(rank, (address, ..))| (rank, *address)).collect(),
            hosts,
            ranks_here: u32::try_from(here).unwrap_or(u32::MAX),
            settings: self.roster.settings.clone(),
        }
    }
}

/// Whether a rank that listens there can be reached by ranks that join later, from wherever these ranks are.
fn check_place(place: IpAddr, mut ranks: impl Iterator<Item = IpAddr>) -> Result<(), String> {
    if place.is_unspecified() || place.is_loopback() && !ranks.all(|rank| rank.is_loopback()) {
        return Err(format!(
            "at {place} it cannot be reached by ranks on other hosts: give --net-if the network of the machine's ranks"
        ));
    }
    Ok(())
}

/// Why a rank has not come in time: a vCPU that does not leave where it is, or the ranks.
fn what_it_waits_for(vcpus: &[VcpuPlace]) -> String {
    let seconds = STEP_TIME.as_secs();
    let moving = vcpus.iter().find_map(|vcpu| Some((vcpu.vcpu, vcpu.rank, vcpu.moving_to?)));
    match moving {
        Some((vcpu, from, to)) => format!(
            "virtual processor {vcpu} is on its way from rank {from} to rank {to} and does not arrive; no rank joins before, {seconds} s were waited"
        ),
        None => format!("not all ranks are connected with it, or it has not set itself up, after {seconds} s"),
    }
}

fn gone(error: ChannelError) -> String {
    format!("it went while it joined: {error}")
}

fn said(other: ToCoordinator) -> String {
    match other {
        ToCoordinator::Failed(line) | ToCoordinator::Missed(line) => line,
        ToCoordinator::Listening(_) | ToCoordinator::Connected | ToCoordinator::Wait => {
            "it speaks out of turn: use the same vincs everywhere".to_owned()
        }
    }
}

fn refuse(channel: &mut Channel, line: &str) {
    // One that is gone needs no word.
    let _ = channel.send(&ToMember::Refused { line: line.to_owned(), said: false }, soon());
}

fn soon() -> Instant {
    Instant::now() + STEP_TIME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_that_joins_listens_where_the_others_do() {
        for (place, ranks, is_good) in [
            ("127.0.0.1", &["127.0.0.1", "127.0.0.1"][..], true),
            ("127.0.0.1", &["127.0.0.1", "10.0.0.1"], false),
            ("::1", &["10.0.0.1"], false),
            ("10.0.0.2", &["10.0.0.1", "10.0.0.3"], true),
            ("0.0.0.0", &["10.0.0.1"], false),
            ("::", &["127.0.0.1"], false),
        ] {
            let checked = check_place(place.parse().unwrap(), ranks.iter().map(|rank| rank.parse().unwrap()));
            assert_eq!(checked.is_ok(), is_good, "{place} {ranks:?}");
            assert!(checked.err().is_none_or(|line| line.contains(place) && line.contains("--net-if")));
        }
    }

    #[test]
    fn the_processor_that_holds_a_rank_up_is_named() {
        let place = |vcpu, moving_to| VcpuPlace { vcpu, rank: 1, moving_to };
        let line = what_it_waits_for(&[place(0, None), place(3, Some(0))]);
        assert!(line.starts_with("virtual processor 3 is on its way from rank 1 to rank 0"), "{line}");
        assert!(what_it_waits_for(&[place(0, None)]).contains("not all ranks"));
    }
}
