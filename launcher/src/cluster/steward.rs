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
use vincs_vmm::cluster::MemberState;
use vincs_vmm::machine::Controller;

use crate::cluster::others::Others;
use crate::cluster::welcome::Welcome;
use crate::wireup::channel::Channel;
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
        let places = roster.addresses.iter().zip(&roster.boots);
        let places = (0..).zip(places.map(|(address, boot)| (*address, boot.clone()))).collect();
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
    /// Where each rank listens that is or was there, and the boot of its host.
    places: BTreeMap<u16, (SocketAddr, String)>,
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
        let Some(rank) = self.controller.reserve() else {
            let line = if self.is_closed() { "the machine has ended" } else { "all places for ranks have been used" };
            return refuse(&mut channel, line);
        };
        match self.admit(rank, &hello, &host, &mut channel) {
            Ok(()) => {
                tracing::info!(rank, host, "a rank has joined");
                self.others.add(rank, host, channel);
            }
            Err(line) => {
                self.controller.abandon(rank);
                tracing::info!(rank, host, line, "a rank does not join");
                refuse(&mut channel, &line);
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

    /// Takes a rank through all steps until it takes part.
    fn admit(&mut self, rank: u16, hello: &Hello, host: &str, channel: &mut Channel) -> Result<(), String> {
        let gone = |error: crate::wireup::channel::ChannelError| format!("it went while it joined: {error}");
        let place = self.place_of(hello, channel)?;
        channel.send(&ToMember::Listen(place), soon()).map_err(gone)?;
        let answer = channel.receive(soon()).map_err(gone)?;
        let ToCoordinator::Listening(address) = answer else { return Err(said(answer)) };
        let seat = self.seat(rank, host, hello);
        channel.send(&ToMember::Seat(Box::new(seat)), soon()).map_err(gone)?;
        let answer = channel.receive(soon()).map_err(gone)?;
        if answer != ToCoordinator::Connected {
            return Err(said(answer));
        }
        let joined = self.controller.admit(rank, hello.processors);
        channel.send(&ToMember::Go, soon()).map_err(gone)?;
        self.wait_until_joined(&joined, channel)?;
        self.places.insert(rank, (address, hello.boot_id.clone()));
        // It notices by its channels when that does not come.
        let _ = channel.send(&ToMember::Joined, soon());
        Ok(())
    }

    fn wait_until_joined(&self, joined: &Receiver<Result<(), String>>, channel: &Channel) -> Result<(), String> {
        let until = Instant::now() + STEP_TIME;
        loop {
            match joined.recv_timeout(LOOK_TIME) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => return Err("the machine has ended".to_owned()),
                Err(RecvTimeoutError::Timeout) if channel.is_gone() => return Err("it went while it joined".to_owned()),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                    let seconds = STEP_TIME.as_secs();
                    return Err(format!(
                        "not all ranks are connected with it, or it has not set itself up, after {seconds} s"
                    ));
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
        Ok(hello.net_if.unwrap_or(if peer.is_loopback() { zero } else { peer }))
    }

    fn seat(&self, rank: u16, host: &str, hello: &Hello) -> Seat {
        let takes_part = |(_, state): &(u16, MemberState)| matches!(state, MemberState::Running | MemberState::Leaving);
        let members = self.controller.members();
        let there = members.iter().filter(|member| takes_part(member)).map(|(rank, _)| *rank);
        let there: Vec<_> = there.filter_map(|rank| Some((rank, self.places.get(&rank)?))).collect();
        let here = there.iter().filter(|(_, (_, boot))| *boot == hello.boot_id).count() + 1;
        let started = u32::try_from(self.roster.addresses.len()).unwrap_or(u32::MAX);
        let mut hosts: Vec<(u16, String)> = self.others.hosts().into_iter().collect();
        hosts.push((rank, host.to_owned()));
        Seat {
            rank: rank.into(),
            started,
            peers: there.into_iter().map(|(rank, (address, _))| (rank, *address)).collect(),
            hosts,
            ranks_here: u32::try_from(here).unwrap_or(u32::MAX),
            settings: self.roster.settings.clone(),
        }
    }
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
