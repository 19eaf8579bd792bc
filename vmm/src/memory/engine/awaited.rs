//! What processors wait for at each shard, where the threads of all shards see it: a shard's node keeps pages for the sake of pages of others.

use std::sync::atomic::{AtomicU64, Ordering};

use vincs_coherence::node::Awaited;

/// One place for each shard, written by its thread alone.
#[derive(Debug)]
pub(super) struct Board(Vec<[AtomicU64; 2]>);

impl Board {
    /// Nothing is waited for.
    pub(super) fn new(shards: u16) -> Self {
        Self((0..shards).map(|_| Awaited::NOTHING.to_words().map(AtomicU64::new)).collect())
    }

    /// This is waited for at a shard now.
    pub(super) fn tell(&self, shard: u16, awaited: Awaited) {
        let Some([first, second]) = self.0.get(usize::from(shard)) else { return };
        let words = awaited.to_words();
        // In the order in which `others` does not look: a page is in one of the words at least.
        second.store(words[1], Ordering::Release);
        first.store(words[0], Ordering::Release);
    }

    /// What is waited for at all shards but this one.
    pub(super) fn others(&self, shard: u16) -> impl Iterator<Item = Awaited> {
        let others = (0..).zip(&self.0).filter(move |(other, _)| *other != shard);
        others.map(|(_, [first, second])| {
            let first = first.load(Ordering::Acquire);
            Awaited::from_words([first, second.load(Ordering::Acquire)])
        })
    }
}

#[cfg(test)]
mod tests {
    use vincs_coherence::home::HomeMap;
    use vincs_coherence::id::{Access, Page, Rank, Tick};
    use vincs_coherence::node::{Config, Node};

    use super::*;

    #[test]
    fn each_shard_sees_what_the_others_wait_for() {
        let homes = HomeMap::new([(8, Rank(0)), (8, Rank(1))]).unwrap();
        let config = Config { hold: Tick(100), ..Config::plain(Rank(1), 2, homes) };
        let mut node = Node::new(config).unwrap();
        let board = Board::new(3);
        node.handle_fault(Tick(5), Page(7), Access::Read);
        board.tell(1, node.awaited());
        assert_ne!(node.awaited(), Awaited::NOTHING);
        assert_eq!(board.others(0).collect::<Vec<_>>(), [node.awaited(), Awaited::NOTHING]);
        assert_eq!(board.others(1).collect::<Vec<_>>(), [Awaited::NOTHING; 2]);
    }
}
