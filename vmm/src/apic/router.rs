//! Takes interrupt messages to the vCPUs they address.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use vincs_coherence::id::{Rank, RankSet};

use super::{Delivery, Destination, Icr, Mailbox, Message, Shorthand};
use crate::cluster::{Control, ControlLink};

/// Where a processor is.
#[derive(Debug)]
enum Place {
    Here(Arc<Mailbox>),
    There(Rank),
}

/// All processors of the machine by APIC id: those of this rank with their mailboxes, the others with their ranks.
#[derive(Debug)]
pub struct Router {
    /// Locked for as long as interrupts are left: a processor that has moved gets no more of them here.
    processors: RwLock<Vec<(u32, Place)>>,
    /// The way to other ranks, if there are any.
    link: Option<Arc<ControlLink>>,
    /// Where the next lowest-priority message starts to look, so that they spread.
    turn: AtomicUsize,
}

impl Router {
    /// A router to these processors, which are all there are: APIC id and mailbox each.
    #[must_use]
    pub fn new(processors: Vec<(u32, Arc<Mailbox>)>) -> Self {
        let processors = processors.into_iter().map(|(id, mailbox)| (id, Place::Here(mailbox))).collect();
        Self { processors: RwLock::new(processors), link: None, turn: AtomicUsize::new(0) }
    }

    /// The same with these processors on other ranks besides.
    #[must_use]
    pub(crate) fn with_others(mut self, others: Vec<(u32, Rank)>, link: Arc<ControlLink>) -> Self {
        let processors = self.processors.get_mut().unwrap_or_else(PoisonError::into_inner);
        processors.extend(others.into_iter().map(|(id, rank)| (id, Place::There(rank))));
        self.link = Some(link);
        self
    }

    /// Processors of this rank belong to other ranks from now on, all at one moment. What was left for them before is in their
    /// mailboxes, everything after goes there.
    pub(crate) fn move_to(&self, moved: &[(u32, Rank)]) {
        let mut processors = self.processors.write().unwrap_or_else(PoisonError::into_inner);
        for (id, place) in processors.iter_mut() {
            if let Some((_, rank)) = moved.iter().find(|(moved, _)| moved == id) {
                *place = Place::There(*rank);
            }
        }
    }

    /// Delivers a message to all (lowest priority: to one) of the processors it addresses, on whatever rank.
    pub fn deliver(&self, message: Message) {
        if message.delivery != Delivery::LowestPriority {
            return self.deliver_to(message, |id| message.destination.includes(id));
        }
        if let Some(id) = self.one_of(message.destination) {
            let destination = Destination::Physical(id);
            self.deliver_to(Message { destination, ..message }, |other| other == id);
        }
    }

    /// One of the processors that are addressed, each in its turn.
    fn one_of(&self, destination: Destination) -> Option<u32> {
        let processors = self.processors.read().unwrap_or_else(PoisonError::into_inner);
        let addressed = || processors.iter().map(|(id, _)| *id).filter(|id| destination.includes(*id));
        let count = addressed().count();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(count)?;
        addressed().nth(turn)
    }

    /// Delivers a message of another rank to those of this rank's processors that it addresses.
    pub(crate) fn deliver_here(&self, message: Message) {
        self.leave(message, |id| message.destination.includes(id));
    }

    /// Sends the inter-processor interrupt that the processor with this APIC id asked for.
    pub fn send(&self, icr: Icr, sender: u32) {
        match icr.shorthand {
            Shorthand::None => self.deliver(icr.message),
            Shorthand::Myself => {
                self.deliver(Message { destination: Destination::Physical(sender), ..icr.message });
            }
            Shorthand::AllIncludingSelf => self.deliver(Message { destination: Destination::All, ..icr.message }),
            Shorthand::AllExcludingSelf => {
                // On other ranks that is everybody, as the sender is here.
                self.deliver_to(Message { destination: Destination::All, ..icr.message }, |id| id != sender);
            }
        }
    }

    /// Leaves a message with these processors: once for each that is here, once for each rank that has any.
    fn deliver_to(&self, message: Message, addressed: impl Fn(u32) -> bool) {
        let ranks = self.leave(message, addressed);
        if let Some(link) = &self.link {
            ranks.iter().for_each(|rank| link.send(rank, &Control::Interrupt(message), &[]));
        }
    }

    /// Leaves a message with those of these processors that are here; gives the ranks of the others. Waits for
    /// [`Self::move_to`] at most.
    fn leave(&self, message: Message, addressed: impl Fn(u32) -> bool) -> RankSet {
        let mut ranks = RankSet::EMPTY;
        let processors = self.processors.read().unwrap_or_else(PoisonError::into_inner);
        for (_, place) in processors.iter().filter(|(id, _)| addressed(*id)) {
            match place {
                Place::Here(mailbox) => mailbox.leave(message.delivery, message.vector, message.level),
                Place::There(rank) => _ = ranks.insert(*rank),
            }
        }
        ranks
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LocalApic, Waker};
    use super::*;
    use crate::cluster::testing::{End, Hub, heard};

    #[derive(Debug)]
    struct Asleep;
    impl Waker for Asleep {
        fn wake(&self) {}
    }

    fn mailbox() -> Arc<Mailbox> {
        Arc::new(Mailbox::new(Box::new(Asleep)))
    }

    fn router(count: u32) -> Router {
        Router::new((0..count).map(|id| (id, mailbox())).collect())
    }

    fn reached(router: &Router) -> Vec<u32> {
        let here = |(id, place): &(u32, Place)| match place {
            Place::Here(mailbox) => Some((*id, Arc::clone(mailbox))),
            Place::There(_) => None,
        };
        let processors = router.processors.read().unwrap();
        let full = processors.iter().filter_map(here).filter(|(_, mailbox)| !mailbox.is_empty());
        full.inspect(|(id, mailbox)| _ = mailbox.collect(&mut LocalApic::new(*id))).map(|(id, _)| id).collect()
    }

    fn fixed(destination: Destination) -> Message {
        Message { destination, delivery: Delivery::Fixed, vector: 0x40, level: false }
    }

    #[test]
    fn each_destination_reaches_exactly_its_processors() {
        let router = router(20);
        router.deliver(fixed(Destination::Physical(7)));
        assert_eq!(reached(&router), [7]);
        router.deliver(fixed(Destination::Physical(99)));
        assert!(reached(&router).is_empty());
        router.deliver(fixed(Destination::Logical(1 << 16 | 0b11)));
        assert_eq!(reached(&router), [16, 17]);
        router.deliver(fixed(Destination::All));
        assert_eq!(reached(&router).len(), 20);
    }

    #[test]
    fn shorthands_replace_the_destination() {
        let router = router(4);
        let icr = |shorthand| Icr { message: fixed(Destination::Physical(0)), shorthand };
        router.send(icr(Shorthand::Myself), 2);
        assert_eq!(reached(&router), [2]);
        router.send(icr(Shorthand::AllExcludingSelf), 2);
        assert_eq!(reached(&router), [0, 1, 3]);
        router.send(icr(Shorthand::AllIncludingSelf), 2);
        assert_eq!(reached(&router), [0, 1, 2, 3]);
        router.send(icr(Shorthand::None), 2);
        assert_eq!(reached(&router), [0]);
    }

    #[test]
    fn lowest_priority_reaches_one_and_takes_turns() {
        let router = router(4);
        let message = Message { delivery: Delivery::LowestPriority, ..fixed(Destination::Logical(0b1010)) };
        router.deliver(message);
        let first = reached(&router);
        router.deliver(message);
        let second = reached(&router);
        assert_eq!((first, second), (vec![1], vec![3]));
    }

    #[test]
    fn init_cancels_an_earlier_start_up_and_a_later_one_follows_it() {
        let own = mailbox();
        let router = Router::new(vec![(0, Arc::clone(&own))]);
        let message = |delivery, vector| Message { delivery, vector, ..fixed(Destination::All) };
        router.deliver(message(Delivery::StartUp, 0x10));
        router.deliver(message(Delivery::Init, 0));
        let mut apic = LocalApic::new(0);
        let signals = own.collect(&mut apic);
        assert!(signals.init && signals.start_up.is_none());
        router.deliver(message(Delivery::Init, 0));
        router.deliver(message(Delivery::StartUp, 0x9a));
        router.deliver(message(Delivery::Nmi, 0));
        let signals = own.collect(&mut apic);
        assert!(signals.init && signals.nmi && signals.start_up == Some(0x9a));
    }

    /// The router of rank 1 of three with two processors each: 0, 1 on rank 0; 2, 3 here; 4, 5 on rank 2. And the ends of all.
    fn spread() -> (Router, Vec<Arc<End>>) {
        let ends = Hub::ends(3);
        let link = Arc::new(ControlLink::new(Rank(1), 3, ends[1].clone()));
        let own = vec![(2, mailbox()), (3, mailbox())];
        let others = vec![(0, Rank(0)), (1, Rank(0)), (4, Rank(2)), (5, Rank(2))];
        (Router::new(own).with_others(others, link), ends)
    }

    fn sent(ends: &[Arc<End>]) -> [Vec<Message>; 2] {
        let message = |(_, control)| {
            let Control::Interrupt(message) = control else { unreachable!("{control:?}") };
            message
        };
        [0, 2].map(|rank| heard(&ends[rank]).into_iter().map(message).collect())
    }

    #[test]
    fn every_rank_with_addressed_processors_gets_one_message() {
        let (router, ends) = spread();
        let all = fixed(Destination::All);
        router.deliver(all);
        assert_eq!((reached(&router), sent(&ends)), (vec![2, 3], [vec![all], vec![all]]));
        let logical = fixed(Destination::Logical(0b11_0101));
        router.deliver(logical);
        assert_eq!((reached(&router), sent(&ends)), (vec![2], [vec![logical], vec![logical]]));
        let one = fixed(Destination::Physical(5));
        router.deliver(one);
        assert_eq!((reached(&router), sent(&ends)), (vec![], [vec![], vec![one]]));
        router.send(Icr { message: one, shorthand: Shorthand::AllExcludingSelf }, 2);
        assert_eq!((reached(&router), sent(&ends)), (vec![3], [vec![all], vec![all]]));
        router.send(Icr { message: one, shorthand: Shorthand::Myself }, 2);
        assert_eq!((reached(&router), sent(&ends)), (vec![2], [vec![], vec![]]));
    }

    #[test]
    fn lowest_priority_takes_turns_over_ranks() {
        let (router, ends) = spread();
        let message = Message { delivery: Delivery::LowestPriority, ..fixed(Destination::Logical(0b1_0101)) };
        let mut reached_in_all = Vec::new();
        for _ in 0..3 {
            router.deliver(message);
            let told = sent(&ends).concat();
            reached_in_all.extend(told.iter().map(|message| message.destination));
            reached_in_all.extend(reached(&router).into_iter().map(Destination::Physical));
        }
        assert_eq!(reached_in_all, [2, 0, 4].map(Destination::Physical), "one each time");
    }

    #[test]
    fn a_processor_that_has_moved_keeps_what_it_got_and_gets_the_rest_there() {
        let (router, ends) = spread();
        let one = fixed(Destination::Physical(3));
        router.deliver(one);
        let own = match &router.processors.read().unwrap()[1].1 {
            Place::Here(mailbox) => Arc::clone(mailbox),
            Place::There(_) => unreachable!(),
        };
        router.move_to(&[(3, Rank(0))]);
        assert!(!own.is_empty());
        router.deliver_here(fixed(Destination::All));
        assert_eq!(reached(&router), [2], "the mailbox of the other is none of the router's any more");
        router.deliver(one);
        assert_eq!((reached(&router), sent(&ends)), (vec![], [vec![one], vec![]]));
    }

    #[test]
    fn what_comes_from_another_rank_stays_here() {
        let (router, ends) = spread();
        router.deliver_here(fixed(Destination::All));
        router.deliver_here(fixed(Destination::Physical(0)));
        assert_eq!((reached(&router), sent(&ends)), (vec![2, 3], [vec![], vec![]]));
    }
}
