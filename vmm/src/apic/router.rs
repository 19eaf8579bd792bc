//! Takes interrupt messages to the vCPUs they address.
//!
//! A message with a destination is looked up once, by its sender: from then on it is an interrupt for each of the processors found, which
//! goes to the rank where the sender knows that processor, and is left there whatever that rank thinks. So it comes once, wherever
//! processors move meanwhile; `cluster::moves` says why it comes in order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use vincs_coherence::id::{Rank, RankSet};

use super::{Delivery, Destination, Icr, Mailbox, Message, Shorthand, Targets};
use crate::cluster::{Control, ControlLink};
use crate::topology::VcpuId;

/// How long a sender waits before it tries again, when too much is under way to a rank.
const FULL_WAIT: Duration = Duration::from_micros(100);

/// All processors of the machine: the mailbox that each has on this rank, and the rank where each is.
#[derive(Debug)]
pub struct Router {
    /// APIC id and mailbox of each, in the order of the vCPUs. In the mailbox of one that is elsewhere interrupts wait until it comes.
    processors: Vec<(u32, Arc<Mailbox>)>,
    /// Where this rank sends for each, in the same order. Locked for reading while interrupts are left or sent: when a change has been
    /// made, all that went by what was before is on its way.
    places: RwLock<Vec<Rank>>,
    own: Rank,
    /// The way to other ranks, if there are any.
    link: Option<Arc<ControlLink>>,
    /// Where the next lowest-priority message starts to look, so that they spread.
    turn: AtomicUsize,
}

impl Router {
    /// A router to these processors, which are all there are: APIC id and mailbox each, in the order of the vCPUs. All are on rank 0.
    #[must_use]
    pub fn new(processors: Vec<(u32, Arc<Mailbox>)>) -> Self {
        let places = RwLock::new(vec![Rank(0); processors.len()]);
        Self { processors, places, own: Rank(0), link: None, turn: AtomicUsize::new(0) }
    }

    /// The same on one rank of several. The processors are on rank 0 until [`Self::repoint`].
    #[must_use]
    pub(crate) fn on(mut self, link: Arc<ControlLink>) -> Self {
        self.own = link.rank();
        self.link = Some(link);
        self
    }

    /// From now on interrupts for a vCPU go to this rank. All that this rank has sent before is under way when this returns.
    pub(crate) fn repoint(&self, vcpu: VcpuId, to: Rank) {
        let mut places = self.write();
        if let Some(place) = usize::try_from(vcpu.0).ok().and_then(|index| places.get_mut(index)) {
            *place = to;
        }
    }

    /// Delivers a message to all (lowest priority: to one) of the processors it addresses, on whatever rank.
    pub fn deliver(&self, message: Message) {
        if message.delivery != Delivery::LowestPriority {
            return self.deliver_to(message, |id| message.destination.includes(id));
        }
        if let Some(id) = self.one_of(message.destination) {
            self.deliver_to(message, |other| other == id);
        }
    }

    /// One of the processors that are addressed, each in its turn.
    fn one_of(&self, destination: Destination) -> Option<u32> {
        let addressed = || self.processors.iter().map(|(id, _)| *id).filter(|id| destination.includes(*id));
        let count = addressed().count();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(count)?;
        addressed().nth(turn)
    }

    /// Leaves an interrupt of another rank with these processors. They are here or come here: who sends knows.
    pub(crate) fn deliver_here(&self, targets: Targets, delivery: Delivery, vector: u8, level: bool) {
        for (_, mailbox) in self.processors.iter().filter(|(id, _)| targets.contains(*id)) {
            mailbox.leave(delivery, vector, level);
        }
    }

    /// Sends the inter-processor interrupt that the processor with this APIC id asked for.
    pub fn send(&self, icr: Icr, sender: u32) {
        match icr.shorthand {
            Shorthand::None => self.deliver(icr.message),
            Shorthand::Myself => self.deliver_to(icr.message, |id| id == sender),
            Shorthand::AllIncludingSelf => self.deliver_to(icr.message, |_| true),
            Shorthand::AllExcludingSelf => self.deliver_to(icr.message, |id| id != sender),
        }
    }

    /// Leaves a message with these processors: with each that is here, in one message for each rank that has any. Waits while a rank
    /// takes none, and then looks again where those are that have not got theirs.
    fn deliver_to(&self, message: Message, addressed: impl Fn(u32) -> bool) {
        let mut left: Targets = self.processors.iter().map(|(id, _)| *id).filter(|id| addressed(*id)).collect();
        loop {
            left = self.try_deliver(message, left);
            let closed = self.link.as_ref().is_none_or(|link| link.is_closed());
            if left.is_empty() || closed {
                return;
            }
            thread::sleep(FULL_WAIT);
        }
    }

    /// Delivers a message to these processors; those that are on ranks which take nothing now are left.
    fn try_deliver(&self, message: Message, targets: Targets) -> Targets {
        let Message { delivery, vector, level, .. } = message;
        let (mut ranks, mut left) = (RankSet::EMPTY, Targets::default());
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let addressed = || self.processors.iter().zip(places.iter()).filter(|((id, _), _)| targets.contains(*id));
        for ((_, mailbox), place) in addressed() {
            if *place == self.own {
                mailbox.leave(delivery, vector, level);
            } else {
                ranks.insert(*place);
            }
        }
        let Some(link) = &self.link else { return left };
        for rank in ranks.iter() {
            let there = || addressed().filter(|(_, place)| **place == rank).map(|((id, _), _)| *id);
            let targets = there().collect();
            if !link.offer(rank, &Control::Interrupt { targets, delivery, vector, level }, &[]) {
                there().for_each(|id| left.insert(id));
            }
        }
        left
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Rank>> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
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
        let full = router.processors.iter().filter(|(_, mailbox)| !mailbox.is_empty());
        full.inspect(|(id, mailbox)| _ = mailbox.collect(&mut LocalApic::new(*id))).map(|(id, _)| *id).collect()
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
        let router = router(6).on(link);
        for (vcpu, rank) in [(2, 1), (3, 1), (4, 2), (5, 2)] {
            router.repoint(VcpuId(vcpu), Rank(rank));
        }
        (router, ends)
    }

    /// For whom interrupts were sent to ranks 0 and 2.
    fn sent(ends: &[Arc<End>]) -> [Vec<Vec<u32>>; 2] {
        let message = |(_, control)| {
            let Control::Interrupt { targets, .. } = control else { unreachable!("{control:?}") };
            (0..6).filter(|id| targets.contains(*id)).collect()
        };
        [0, 2].map(|rank| heard(&ends[rank]).into_iter().map(message).collect())
    }

    #[test]
    fn every_rank_with_addressed_processors_gets_one_message_that_names_them() {
        let (router, ends) = spread();
        router.deliver(fixed(Destination::All));
        assert_eq!((reached(&router), sent(&ends)), (vec![2, 3], [vec![vec![0, 1]], vec![vec![4, 5]]]));
        router.deliver(fixed(Destination::Logical(0b11_0101)));
        assert_eq!((reached(&router), sent(&ends)), (vec![2], [vec![vec![0]], vec![vec![4, 5]]]));
        let one = fixed(Destination::Physical(5));
        router.deliver(one);
        assert_eq!((reached(&router), sent(&ends)), (vec![], [vec![], vec![vec![5]]]));
        router.send(Icr { message: one, shorthand: Shorthand::AllExcludingSelf }, 2);
        assert_eq!((reached(&router), sent(&ends)), (vec![3], [vec![vec![0, 1]], vec![vec![4, 5]]]));
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
            reached_in_all.extend(sent(&ends).concat().concat());
            reached_in_all.extend(reached(&router));
        }
        assert_eq!(reached_in_all, [0, 2, 4], "one each time");
    }

    #[test]
    fn a_processor_that_moves_keeps_what_it_got_and_gets_the_rest_there() {
        let (router, ends) = spread();
        let one = fixed(Destination::Physical(3));
        router.deliver(one);
        router.repoint(VcpuId(3), Rank(0));
        router.deliver(one);
        assert_eq!((reached(&router), sent(&ends)), (vec![3], [vec![vec![3]], vec![]]));
        router.repoint(VcpuId(3), Rank(1));
        router.deliver(one);
        assert_eq!((reached(&router), sent(&ends)), (vec![3], [vec![], vec![]]));
        router.repoint(VcpuId(99), Rank(1));
    }

    #[test]
    fn what_comes_from_another_rank_is_left_here_for_whom_it_is() {
        let (router, ends) = spread();
        // Processor 0 may be about to come, which this rank need not know yet; 77 there is not.
        router.deliver_here([0, 3, 77].into_iter().collect(), Delivery::Fixed, 0x40, false);
        assert_eq!((reached(&router), sent(&ends)), (vec![0, 3], [vec![], vec![]]));
    }

    #[test]
    fn a_sender_that_has_to_wait_for_room_holds_up_no_move_and_goes_where_the_processor_is() {
        let (router, ends) = spread();
        ends[1].limit(Rank(2), 0);
        let router = Arc::new(router);
        let sender = {
            let router = Arc::clone(&router);
            thread::spawn(move || router.deliver(fixed(Destination::All)))
        };
        while reached(&router) != [2, 3] {
            thread::yield_now();
        }
        assert!(!sender.is_finished());
        router.repoint(VcpuId(5), Rank(0));
        let until = std::time::Instant::now() + Duration::from_secs(20);
        let mut to_first = Vec::new();
        while to_first.len() < 2 {
            assert!(std::time::Instant::now() < until);
            to_first.extend(sent(&ends)[0].clone());
        }
        assert_eq!(to_first, [vec![0, 1], vec![5]]);
        ends[1].limit(Rank(2), 1);
        sender.join().unwrap();
        assert_eq!((reached(&router), sent(&ends)), (vec![], [vec![], vec![vec![4]]]), "each once");
    }
}
