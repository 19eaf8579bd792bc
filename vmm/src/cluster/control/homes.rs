//! The homes of pages that move as ranks come and leave, as rank 0 orders it on its control thread. Which go where is in [`Homes`]; the
//! memory does it (`Mover`).
//!
//! A hand-over is for all ranks that take part, and all know of it: so none is under way while a rank that joins is told where the homes
//! are, until it takes part, nor while a rank that leaves gives up its pages, until it is gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vincs_coherence::id::{Rank, Run};
use vincs_coherence::node::MAX_HAND_OVERS;

use super::super::homes::Homes;
use super::super::message::Control;
use super::super::placement::{Placement, Share};
use super::super::seats::RemoveError;
use super::{ControlNotes, Core, Elastic, First, Note};
use crate::layout::PAGE_SIZE;
use crate::memory::engine::{MoveError, Mover};

/// Most hand-overs under way at once while a rank leaves: the bytes of some travel while others freeze, and who waits for one of their
/// pages does not wait for long.
pub(crate) const LEAVER_HAND_OVERS: usize = 8;

/// Least time from one hand-over to a rank that has joined to the next: 128 pages each time are 50 MiB a second, a part of what a network carries.
pub(crate) const SHARE_STEP: Duration = Duration::from_millis(10);

/// How long nothing is handed over after the memory has refused to.
const REFUSED_STEP: Duration = Duration::from_secs(1);

const _: () = assert!(LEAVER_HAND_OVERS <= MAX_HAND_OVERS);

/// What ranks' hosts have for them, as far as that is known.
type Shares = BTreeMap<Rank, Share>;

/// The homes of all pages, and what moves them.
#[derive(Debug)]
pub(crate) struct HomeMoves {
    pub(super) homes: Homes,
    mover: Mover,
    /// The ranks that started the machine; further ones get their share when they have joined.
    started: u16,
    /// Before that no rank that has joined gets a part of its share.
    next_share: Option<Instant>,
    /// The memory has refused a hand-over, and none begins before that.
    refused: Option<Instant>,
    /// No rank that has joined lacks a part of its share, as long as none comes or goes.
    is_settled: bool,
}

impl HomeMoves {
    /// So many ranks start the machine.
    pub(crate) fn new(homes: Homes, mover: Mover, started: u16) -> Self {
        Self { homes, mover, started, next_share: None, refused: None, is_settled: true }
    }

    /// A rank takes part from now on, or leaves: shares are others.
    pub(super) fn ranks_change(&mut self) {
        self.is_settled = false;
    }

    /// Whether there is something to hand over, or handed over, but for what ranks leave behind.
    pub(super) fn are_busy(&self) -> bool {
        !self.is_settled || !self.homes.are_at_rest()
    }

    /// When there is more to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.refused.or(self.next_share)
    }

    /// What was waited for until now is not any more.
    pub(super) fn wait_no_more(&mut self, now: Instant) {
        self.refused.take_if(|until| *until <= now);
        self.next_share.take_if(|until| *until <= now);
    }

    /// Whether a rank is no home, and no hand-over is under way.
    pub(super) fn are_gone_from(&self, rank: Rank) -> bool {
        self.homes.are_at_rest() && self.homes.to_be(rank) == 0
    }

    /// Whether the hosts of those that stay hold all pages when one leaves. One that is no home may always leave.
    pub(super) fn check_room(&self, leaver: Rank, stay: &[Rank], shares: &Shares) -> Result<(), RemoveError> {
        if self.homes.to_be(leaver) == 0 {
            return Ok(());
        }
        stay.iter().find_map(|at| self.too_small(*at, stay, shares)).map_or(Ok(()), |(at, ranks, pages, memory)| {
            Err(RemoveError::Room { rank: leaver.0, at: at.0, ranks, pages, memory })
        })
    }

    /// If a rank's host does not hold the shares of these ranks that are on it: the rank, how many are there, and pages of their shares and
    /// of the host.
    fn too_small(&self, at: Rank, all: &[Rank], shares: &Shares) -> Option<(Rank, u32, u64, u64)> {
        let share = shares.get(&at).filter(|share| share.memory > 0)?;
        let is_there = |rank: &&Rank| shares.get(rank).is_some_and(|other| other.host == share.host);
        let ranks = u32::try_from(all.iter().filter(is_there).count()).unwrap_or(u32::MAX);
        let (pages, memory) = (u64::from(self.homes.share(all.len())) * u64::from(ranks), share.memory / PAGE_SIZE);
        (pages > memory).then_some((at, ranks, pages, memory))
    }

    /// Those of these ranks that get what ranks leave: those that may be homes by the placement.
    fn takers(&self, placement: Placement, running: Vec<Rank>) -> Vec<Rank> {
        match placement {
            Placement::Spread | Placement::Pack => running,
            Placement::Manual => running.into_iter().filter(|rank| self.homes.to_be(*rank) > 0).collect(),
        }
    }

    /// The ranks among these that get a share of the homes as they have joined.
    fn newcomers(&self, running: &[Rank], shares: &Shares) -> Vec<Rank> {
        let joined = running.iter().filter(|rank| rank.0 >= self.started);
        joined.filter(|rank| self.too_small(**rank, running, shares).is_none()).copied().collect()
    }

    /// Lets a rank that has joined get a part of its share, if it is time for that.
    fn share(
        &mut self,
        core: &Core,
        notes: &ControlNotes,
        (placement, shares): (Placement, &Shares),
        running: &[Rank],
    ) {
        if self.is_settled || !self.homes.are_at_rest() || self.next_share.is_some() {
            return;
        }
        let newcomers = if placement == Placement::Manual { Vec::new() } else { self.newcomers(running, shares) };
        match self.homes.next_for(&newcomers, running) {
            Some(next) => {
                self.next_share = Some(Instant::now() + SHARE_STEP);
                self.begin(core, notes, next);
            }
            None => self.is_settled = true,
        }
    }

    /// Lets ranks that leave hand over what they have to these others.
    fn empty(&mut self, core: &Core, notes: &ControlNotes, leaving: &[Rank], takers: &[Rank]) {
        while self.homes.under_way() < LEAVER_HAND_OVERS {
            let next = leaving.iter().find_map(|rank| self.homes.next_of(*rank, takers));
            let Some(next) = next else { return };
            self.begin(core, notes, next);
        }
    }

    /// Has a hand-over begin. What has become of it is a note.
    fn begin(&mut self, core: &Core, notes: &ControlNotes, (run, to): (Run, Rank)) {
        let members = core.present().collect();
        // Before any page is there.
        core.vitals.insert(to);
        if self.homes.begin(run, to).is_some() {
            let notes = notes.clone();
            self.mover.begin(run, to, members, move |moved| notes.tell(Note::HandedOver(run, moved)));
        }
    }
}

impl First {
    /// Pages have got another home, or not.
    pub(super) fn handed_over(&mut self, run: Run, moved: Result<(), MoveError>) {
        let homes = &mut self.elastic.homes;
        homes.homes.is_over(run, moved.is_ok());
        match moved {
            Ok(()) | Err(MoveError::Ended) => {}
            Err(error) => {
                tracing::error!(first = run.first.0, %error, "pages do not get another home");
                homes.refused = Some(Instant::now() + REFUSED_STEP);
            }
        }
    }

    /// A rank that joins is told where the homes are, once none is on its way; from then on they stay until it takes part.
    pub(super) fn tell_homes(&mut self, core: &Core, rank: Rank) {
        if !self.elastic.homes.homes.are_at_rest() || !self.elastic.seats.tell_homes(rank) {
            return;
        }
        match self.elastic.homes.homes.to_bytes() {
            Some(bytes) => {
                let vital = core.link.others().chain([core.link.rank()]).filter(|other| core.vitals.contains(*other));
                core.link.send(rank, &Control::Homes { vital: vital.collect() }, &bytes);
            }
            None => self.give_up_joining(rank, "the homes of pages are too many pieces to tell it"),
        }
    }

    /// Lets homes move on as far as they may now: those of ranks that leave, else to those that have joined.
    pub(super) fn move_homes(&mut self, core: &Core) {
        let Elastic { seats, homes, shares, placement, is_spread, .. } = &mut self.elastic;
        // Those that join are told first, and those that leave may give up their pages first.
        let others_first = seats.complete(core.present()).is_some() || seats.homes_are_fixed();
        if core.over || others_first || homes.refused.is_some() {
            return;
        }
        let (leaving, running) = (seats.to_be_emptied(), seats.running());
        if leaving.is_empty() {
            // While the guest boots nobody gets anything but what ranks leave behind.
            if !*is_spread {
                return;
            }
            homes.share(core, &self.notes, (*placement, shares), &running);
            return;
        }
        let empty: Vec<Rank> = leaving.into_iter().filter(|rank| !self.owners.involve(*rank)).collect();
        if empty.iter().all(|rank| homes.homes.to_be(*rank) > 0) {
            homes.empty(core, &self.notes, &empty, &homes.takers(*placement, running));
        }
    }

    /// Pages that each rank is the home of.
    pub(super) fn homes_now(&self) -> Vec<(Rank, u32)> {
        self.elastic.homes.homes.now().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use vincs_coherence::home::HomeMap;

    use super::*;

    /// A rank's part of a host, with memory for so many pages.
    fn on(host: char, pages: u64) -> Share {
        Share { host: host.into(), memory: pages * PAGE_SIZE, ..Share::default() }
    }

    /// Ranks that are the homes of 100 pages each, on these hosts with memory for so many.
    fn moves(hosts: &[(char, u64)]) -> (HomeMoves, Shares) {
        let homes = HomeMap::new((0..).map(Rank).take(hosts.len()).map(|rank| (100, rank))).unwrap();
        let shares = (0..).map(Rank).zip(hosts.iter().map(|(host, pages)| on(*host, *pages))).collect();
        (HomeMoves::new(Homes::new(homes), Mover::default(), 2), shares)
    }

    #[test]
    fn a_rank_leaves_when_the_hosts_of_the_others_hold_its_pages() {
        let stay = [Rank(0), Rank(2)];
        let check = |hosts: &[(char, u64)]| {
            let (moves, shares) = moves(hosts);
            moves.check_room(Rank(1), &stay, &shares)
        };
        assert_eq!(check(&[('a', 150), ('b', 100), ('c', 150)]), Ok(()));
        let small = RemoveError::Room { rank: 1, at: 2, ranks: 1, pages: 150, memory: 149 };
        assert_eq!(check(&[('a', 150), ('b', 100), ('c', 149)]), Err(small));
        let shared = RemoveError::Room { rank: 1, at: 0, ranks: 2, pages: 300, memory: 299 };
        assert_eq!(check(&[('a', 299), ('b', 100), ('a', 299)]), Err(shared));
        assert_eq!(check(&[('a', 300), ('a', 300), ('a', 300)]), Ok(()), "that it leaves is no loss");
        assert_eq!(check(&[('a', 0), ('b', 0), ('c', 0)]), Ok(()), "nothing is known");
        assert!(small.to_string().contains("rank 1 stays") && small.to_string().contains("host of rank 2"), "{small}");
    }

    #[test]
    fn a_rank_without_pages_always_leaves_and_one_on_a_small_host_gets_none() {
        let (moves, mut shares) = moves(&[('a', 1000), ('b', 1000)]);
        let all: Vec<Rank> = (0..4).map(Rank).collect();
        shares.extend([(Rank(2), on('c', 49)), (Rank(3), on('d', 50))]);
        assert_eq!(moves.newcomers(&all, &shares), [Rank(3)]);
        assert_eq!(moves.check_room(Rank(3), &all[..3], &shares), Ok(()));
        shares.retain(|rank, _| rank.0 < 2);
        assert_eq!(moves.newcomers(&all, &shares), all[2..]);
    }

    #[test]
    fn what_ranks_leave_goes_to_those_that_may_be_homes() {
        let (moves, _) = moves(&[('a', 0), ('b', 0)]);
        let running = || (0..3).map(Rank).collect();
        assert_eq!(moves.takers(Placement::Spread, running()).len(), 3);
        assert_eq!(moves.takers(Placement::Manual, running()), [Rank(0), Rank(1)]);
    }
}
