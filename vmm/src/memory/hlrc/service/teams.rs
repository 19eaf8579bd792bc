//! Meetings, what is told between them, and how one program takes over from another: this rank's part, and the keeper's.

use std::collections::{BTreeMap, VecDeque};

use vincs_coherence::hlrc::clock::Clock;
use vincs_coherence::hlrc::node::{SeeError, ThreadError};
use vincs_coherence::hlrc::{Outcome, ThreadId};
use vincs_coherence::id::{Rank, RankSet};

use super::{Received, Service};
use crate::memory::hlrc::command::{Ask, Reply};
use crate::memory::hlrc::meeting::{Attendance, KEEPER, MAX_MEMBERS, Meeting, MeetingError, Message};
use crate::memory::hlrc::member::{Answer, SyncError};

/// What a thread is at, beyond what the node knows of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Doing {
    /// What the node does for it.
    Asks,
    /// It publishes, and tells the keeper by this name.
    Tells(u64),
    /// It waits for what the keeper answers by this name.
    Hears(u64),
    /// It is at a meeting.
    Meets(u64),
    /// It begins a program by this name.
    Begins(u64),
}

/// The members of a team on this rank.
#[derive(Debug)]
struct Gathering {
    meeting: Meeting,
    come: Vec<ThreadId>,
    /// By member: those that have come here, then all.
    words: BTreeMap<u32, u64>,
}

/// The members of a team on all ranks, as the keeper knows them.
#[derive(Debug)]
struct Assembly {
    members: u32,
    words: BTreeMap<u32, u64>,
    clock: Clock,
    ranks: RankSet,
}

/// A program that begins.
#[derive(Debug)]
struct Beginning {
    /// Whose it is, and its name there.
    by: Rank,
    name: u64,
    /// Ranks that have given up what was before.
    reset: RankSet,
}

/// All that is under way.
#[derive(Debug, Default)]
pub(super) struct Teams {
    gatherings: BTreeMap<u64, Gathering>,
    /// The last name given.
    names: u64,
    /// Messages of this rank to itself.
    own: VecDeque<Message>,
    /// This rank gives up what an earlier program had.
    resets: bool,
    /// It has, and publishes what that has written.
    publishes: bool,
    /// The keeper's: what has been told by all. Nothing is told at first.
    told: Option<Clock>,
    /// The keeper's: teams, of which some have come.
    assemblies: BTreeMap<u64, Assembly>,
    /// The keeper's: programs that begin, one after the other.
    beginnings: VecDeque<Beginning>,
}

impl Service {
    /// The thread of this rank's that no guest has: the last.
    fn own_thread(&self) -> ThreadId {
        ThreadId(u16::try_from(self.seats.len().saturating_sub(1)).unwrap_or(u16::MAX))
    }

    fn new_name(&mut self) -> u64 {
        self.teams.names += 1;
        self.teams.names
    }

    /// Begins what goes beyond the node. It is for [`super::super::Settings::open`] memory.
    pub(super) fn ask_teams(&mut self, thread: ThreadId, ask: Ask, reply: Reply) {
        // The last thread is for programs that begin, and nothing else.
        if (thread == self.own_thread()) != matches!(ask, Ask::Reset) {
            return reply.answer(Err(ThreadError::None(thread.0).into()));
        }
        if let Some(failure) = self.node.failure() {
            return reply.answer(Err(SyncError::Failed(failure)));
        }
        let name = self.new_name();
        let begun = match ask {
            Ask::Tell => self.node.handle_publish(thread).map(|()| Doing::Tells(name)).map_err(SyncError::from),
            Ask::Hear => {
                self.send(KEEPER, Message::Hear { name });
                Ok(Doing::Hears(name))
            }
            Ask::Meet(attendance) => self.gather(thread, attendance).map(|()| Doing::Meets(attendance.meeting.team)),
            Ask::Reset => {
                self.send(KEEPER, Message::Begin { name });
                Ok(Doing::Begins(name))
            }
            Ask::Acquire(_) | Ask::Release(_) | Ask::GiveBack(_) | Ask::Barrier(_) => Err(SyncError::Ended),
        };
        match begun {
            Ok(doing) => {
                self.seat(thread, doing, reply);
                if let Doing::Meets(team) = doing {
                    self.all_here(team);
                }
                self.act(Received::NOTHING);
            }
            Err(error) => reply.answer(Err(error)),
        }
    }

    fn gather(&mut self, thread: ThreadId, attendance: Attendance) -> Result<(), SyncError> {
        let Attendance { meeting, member, word } = attendance;
        let Meeting { team, members, here } = meeting;
        let threads = self.seats.len() - 1;
        if here == 0
            || members < here
            || members > MAX_MEMBERS
            || usize::try_from(here).is_ok_and(|here| here > threads)
        {
            return Err(MeetingError::Size { members, here, threads }.into());
        }
        if member >= members {
            return Err(MeetingError::Disagree(team).into());
        }
        let gathering = self.teams.gatherings.entry(team).or_insert_with(|| Gathering {
            meeting,
            come: Vec::new(),
            words: BTreeMap::new(),
        });
        let has_come = gathering.words.contains_key(&member) || gathering.come.len() >= here as usize;
        if gathering.meeting != meeting || has_come {
            return Err(MeetingError::Disagree(team).into());
        }
        gathering.come.push(thread);
        gathering.words.insert(member, word);
        Ok(())
    }

    /// Whether an earlier program's things are being given up here: nothing begins meanwhile.
    pub(super) fn is_resetting(&self) -> bool {
        self.teams.resets || self.teams.publishes
    }

    /// If all members of this rank have come, it says so.
    fn all_here(&mut self, team: u64) {
        let Some(Gathering { meeting, come, .. }) = self.teams.gatherings.get(&team) else { return };
        if come.len() < meeting.here as usize {
            return;
        }
        if meeting.here == meeting.members {
            // Threads of one rank see each other's writes as they are.
            return self.end_meeting(team, Ok(Outcome::Seen));
        }
        let published = come.first().map(|first| self.node.handle_publish(*first));
        if let Some(Err(error)) = published {
            self.end_meeting(team, Err(error.into()));
        }
    }

    fn end_meeting(&mut self, team: u64, answer: Answer) {
        let Some(Gathering { come, words, .. }) = self.teams.gatherings.remove(&team) else { return };
        let words: Vec<u64> = words.into_values().collect();
        for thread in come {
            self.answer_with(thread, answer, &words);
        }
    }

    /// What a thread has published is home.
    pub(super) fn published(&mut self, thread: ThreadId) {
        let Some(clock) = self.node.take_published(thread) else { return };
        if thread == self.own_thread() && std::mem::take(&mut self.teams.publishes) {
            return self.send(KEEPER, Message::IsReset { clock });
        }
        match self.doing(thread) {
            Some(Doing::Tells(name)) => self.send(KEEPER, Message::Tell { name, clock }),
            Some(Doing::Meets(team)) => {
                if let Some(Gathering { meeting, words, .. }) = self.teams.gatherings.get(&team) {
                    let words = words.iter().map(|(member, word)| (*member, *word)).collect();
                    self.send(KEEPER, Message::Come { team, members: meeting.members, clock, words });
                }
            }
            Some(Doing::Asks | Doing::Hears(_) | Doing::Begins(_)) | None => {}
        }
        self.settle();
    }

    /// A thread's rank sees what others have published.
    pub(super) fn seen(&mut self, thread: ThreadId) {
        match self.doing(thread) {
            Some(Doing::Meets(team)) => self.end_meeting(team, Ok(Outcome::Seen)),
            Some(Doing::Hears(_) | Doing::Begins(_)) => self.answer(thread, Ok(Outcome::Seen)),
            Some(Doing::Asks | Doing::Tells(_)) | None => {}
        }
        self.settle();
    }

    pub(super) fn send(&mut self, to: Rank, message: Message) {
        if to == self.settings.rank {
            return self.teams.own.push_back(message);
        }
        if let Err(error) = self.operations.say(to, message.encode()) {
            self.host_failed(&error.to_string());
        }
    }

    /// Hears what this rank has told itself; says whether there was anything.
    pub(super) fn hear_own(&mut self) -> bool {
        let mut any = false;
        while let Some(message) = self.teams.own.pop_front() {
            any = true;
            self.hear(self.settings.rank, message);
        }
        any
    }

    /// What a rank says, but that it leaves.
    pub(super) fn hear(&mut self, from: Rank, message: Message) {
        match message {
            Message::Leaves => {}
            Message::Note(note) => self.hear_note(from, note),
            Message::Come { team, members, clock, words } => self.assemble(from, (team, members), &clock, words),
            Message::Tell { name, clock } => {
                self.note_told(&clock);
                self.send(from, Message::Known { name });
            }
            Message::Hear { name } => {
                let clock = self.told();
                self.send(from, Message::Told { name, clock });
            }
            Message::Begin { name } => {
                self.teams.beginnings.push_back(Beginning { by: from, name, reset: RankSet::EMPTY });
                if self.teams.beginnings.len() == 1 {
                    self.reset_all();
                }
            }
            Message::IsReset { clock } => self.is_reset(from, &clock),
            Message::Go { team, clock, words } => {
                let gathering = self.teams.gatherings.get_mut(&team);
                let first = gathering.and_then(|gathering| {
                    gathering.words = (0..).zip(words).collect();
                    gathering.come.first().copied()
                });
                if let Some(first) = first {
                    self.see(first, clock);
                }
            }
            Message::Apart { team } => self.end_meeting(team, Err(MeetingError::Disagree(team).into())),
            Message::Known { name } => {
                if let Some(thread) = self.doer(Doing::Tells(name)) {
                    self.answer(thread, Ok(Outcome::Published));
                }
            }
            Message::Told { name, clock } => {
                if let Some(thread) = self.doer(Doing::Hears(name)) {
                    self.see(thread, clock);
                }
            }
            Message::Begun { name, clock } => {
                if let Some(thread) = self.doer(Doing::Begins(name)) {
                    self.see(thread, clock);
                }
            }
            Message::Reset => {
                self.give_up();
                self.have_locks_back();
                self.teams.resets = true;
                self.settle();
            }
        }
        self.act(Received::NOTHING);
    }

    fn see(&mut self, thread: ThreadId, clock: Clock) {
        let Err(error) = self.node.handle_see(thread, clock) else { return };
        let SeeError::Thread(error) = error else {
            // Clocks of messages are of as many ranks as there are: it is found as they are read.
            return self.host_failed(&error.to_string());
        };
        match self.doing(thread) {
            Some(Doing::Meets(team)) => self.end_meeting(team, Err(error.into())),
            _ => self.answer(thread, Err(error.into())),
        }
    }

    fn told(&self) -> Clock {
        let ranks = u16::try_from(self.settings.team.len()).unwrap_or(u16::MAX);
        self.teams.told.clone().unwrap_or_else(|| Clock::new(ranks))
    }

    fn note_told(&mut self, clock: &Clock) {
        let mut told = self.told();
        told.merge(clock);
        self.teams.told = Some(told);
    }

    /// To the keeper some members of a team have come.
    fn assemble(&mut self, from: Rank, (team, members): (u64, u32), clock: &Clock, words: Vec<(u32, u64)>) {
        let new = || Assembly { members, words: BTreeMap::new(), clock: clock.clone(), ranks: RankSet::EMPTY };
        let assembly = self.teams.assemblies.entry(team).or_insert_with(new);
        assembly.clock.merge(clock);
        let come = assembly.words.len() + words.len();
        assembly.words.extend(words);
        let is_new = assembly.ranks.insert(from);
        // Two of one number are none of that many.
        let agree = assembly.members == members && is_new && assembly.words.len() == come && come <= members as usize;
        if agree && come < members as usize {
            return;
        }
        let Some(Assembly { clock, mut ranks, words, .. }) = self.teams.assemblies.remove(&team) else { return };
        ranks.insert(from);
        for rank in self.everybody().filter(|rank| ranks.contains(*rank)) {
            let (clock, words) = (clock.clone(), words.values().copied().collect());
            self.send(rank, if agree { Message::Go { team, clock, words } } else { Message::Apart { team } });
        }
    }

    fn everybody(&self) -> impl Iterator<Item = Rank> + use<> {
        (0..).map(Rank).take(self.settings.team.len())
    }

    fn reset_all(&mut self) {
        self.everybody().for_each(|rank| self.send(rank, Message::Reset));
    }

    /// To the keeper a rank has given up what was before.
    fn is_reset(&mut self, from: Rank, clock: &Clock) {
        self.note_told(clock);
        let all = self.settings.team.len();
        let Some(beginning) = self.teams.beginnings.front_mut() else { return };
        beginning.reset.insert(from);
        if (beginning.reset.len() as usize) < all {
            return;
        }
        // Whatever ranks had told of the earlier program came before.
        self.teams.assemblies.clear();
        if let Some(Beginning { by, name, .. }) = self.teams.beginnings.pop_front() {
            let clock = self.told();
            self.send(by, Message::Begun { name, clock });
        }
        if !self.teams.beginnings.is_empty() {
            self.reset_all();
        }
    }

    /// Nobody waits any more but who begins.
    fn give_up(&mut self) {
        self.teams.gatherings.clear();
        for index in 0..self.seats.len().saturating_sub(1) {
            self.answer(ThreadId(u16::try_from(index).unwrap_or(u16::MAX)), Err(SyncError::Reset));
        }
    }

    /// Gives back locks that an earlier program has or gets; when nothing of it is left, publishes what it has written.
    pub(super) fn settle(&mut self) {
        if !self.teams.resets {
            return;
        }
        let own = self.own_thread();
        let mut settled = !self.node.waits(own);
        let holders = self.node.holders();
        for index in 0..self.seats.len().saturating_sub(1) {
            let thread = ThreadId(u16::try_from(index).unwrap_or(u16::MAX));
            self.node.handle_withdraw(thread);
            if self.node.waits(thread) {
                settled = false;
            } else if holders.contains(&thread) {
                settled = false;
                // It does not wait. All at once: there may be very many.
                let _ = self.node.handle_give_up(thread);
            }
        }
        if settled {
            self.teams.resets = false;
            // Nobody but this has it publish, and one program begins at a time.
            self.teams.publishes = self.node.handle_publish(own).is_ok();
        }
    }
}
