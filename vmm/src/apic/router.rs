//! Takes interrupt messages to the vCPUs they address.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Delivery, Destination, Icr, Mailbox, Message, Shorthand};

/// The mailboxes of all vCPUs, by APIC id.
#[derive(Debug)]
pub struct Router {
    processors: Vec<(u32, Arc<Mailbox>)>,
    /// Where the next lowest-priority message starts to look, so that they spread.
    turn: AtomicUsize,
}

impl Router {
    /// A router to these processors: APIC id and mailbox each.
    #[must_use]
    pub fn new(processors: Vec<(u32, Arc<Mailbox>)>) -> Self {
        Self { processors, turn: AtomicUsize::new(0) }
    }

    /// Delivers a message to all (lowest priority: to one) of the processors it addresses.
    pub fn deliver(&self, message: Message) {
        let addressed = |(id, _): &&(u32, Arc<Mailbox>)| message.destination.includes(*id);
        match message.delivery {
            Delivery::LowestPriority => {
                let count = self.processors.iter().filter(addressed).count();
                if count > 0 {
                    let turn = self.turn.fetch_add(1, Ordering::Relaxed) % count;
                    self.processors.iter().filter(addressed).skip(turn).take(1).for_each(|to| leave(to, message));
                }
            }
            Delivery::Fixed | Delivery::Nmi | Delivery::Init | Delivery::StartUp => {
                self.processors.iter().filter(addressed).for_each(|to| leave(to, message));
            }
        }
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
                self.processors.iter().filter(|(id, _)| *id != sender).for_each(|to| leave(to, icr.message));
            }
        }
    }
}

fn leave((_, mailbox): &(u32, Arc<Mailbox>), message: Message) {
    mailbox.leave(message.delivery, message.vector, message.level);
}

#[cfg(test)]
mod tests {
    use super::super::{LocalApic, Waker};
    use super::*;

    #[derive(Debug)]
    struct Asleep;
    impl Waker for Asleep {
        fn wake(&self) {}
    }

    fn router(count: u32) -> Router {
        Router::new((0..count).map(|id| (id, Arc::new(Mailbox::new(Box::new(Asleep))))).collect())
    }

    fn reached(router: &Router) -> Vec<u32> {
        let reached = router.processors.iter().filter(|(_, mailbox)| !mailbox.is_empty()).map(|(id, _)| *id).collect();
        for (id, mailbox) in &router.processors {
            mailbox.collect(&mut LocalApic::new(*id));
        }
        reached
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
        let router = router(1);
        let message = |delivery, vector| Message { delivery, vector, ..fixed(Destination::All) };
        router.deliver(message(Delivery::StartUp, 0x10));
        router.deliver(message(Delivery::Init, 0));
        let mut apic = LocalApic::new(0);
        let signals = router.processors[0].1.collect(&mut apic);
        assert!(signals.init && signals.start_up.is_none());
        router.deliver(message(Delivery::Init, 0));
        router.deliver(message(Delivery::StartUp, 0x9a));
        router.deliver(message(Delivery::Nmi, 0));
        let signals = router.processors[0].1.collect(&mut apic);
        assert!(signals.init && signals.nmi && signals.start_up == Some(0x9a));
    }
}
