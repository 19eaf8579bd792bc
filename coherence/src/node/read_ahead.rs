//! Asking ahead of a processor that reads pages in order.
//!
//! A stream begins when two adjacent pages have faulted in turn. From then on the pages after the fault are asked for as well, first
//! [`MIN_WINDOW`], then twice as many each time, up to the configured window. They are mapped when they come, so the reader
//! faults again only on a page that is still on its way, or on the first one that was not asked for; either tells how far
//! it has come, and pages are asked for again up to a whole window ahead of it. They travel in several messages, so that the
//! reader uses the first while the last are still on their way, and it is never out of pages as long as the home keeps up.
//! A fault that continues no stream asks for nothing more.

use super::Node;
use super::cache::CacheState;
use crate::id::{Access, Page, Rank, Run, STRIPE_PAGES, Tick};
use crate::message::Urgency;

/// Streams followed at once; the one that went on longest ago is forgotten.
pub(super) const MAX_STREAMS: usize = 8;

/// Pages asked for when a stream begins.
const MIN_WINDOW: u16 = 2;

/// A window travels in so many messages.
const PIECES: u16 = 4;

/// A reader of pages in order.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Stream {
    /// The page after its last fault.
    next: Page,
    /// The page after the last one asked for.
    end: Page,
    /// How many pages to be ahead of it; 0 before its second fault.
    window: u16,
}

/// The readers followed, the one that went on last first.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Streams(Vec<Stream>);

impl Streams {
    /// A page has faulted: gives the pages from which on and before which others are to be asked for, if it continues a stream: at
    /// most so many, and none from `limit` on.
    fn fault(&mut self, page: Page, most: u16, limit: Page) -> Option<(Page, Page)> {
        let Some(at) = self.0.iter().position(|stream| (stream.next..=stream.end).contains(&page)) else {
            self.0.truncate(MAX_STREAMS - 1);
            let next = Page(page.0.saturating_add(1));
            self.0.insert(0, Stream { next, end: next, window: 0 });
            return None;
        };
        let mut stream = self.0.remove(at);
        stream.window = stream.window.saturating_mul(2).max(MIN_WINDOW).min(most);
        stream.next = Page(page.0.saturating_add(1));
        let from = stream.end.max(stream.next);
        stream.end = from.max(limit.min(Page(stream.next.0.saturating_add(stream.window.into()))));
        self.0.insert(0, stream);
        Some((from, stream.end))
    }

    /// Of the pages that were to be asked for last, those from this one on were not.
    fn cut(&mut self, end: Page) {
        if let Some(stream) = self.0.first_mut() {
            stream.end = end;
        }
    }

    /// Pages asked for ahead are not to be had: the stream begins anew before them.
    pub(super) fn refused(&mut self, run: Run) {
        for stream in self.0.iter_mut().filter(|stream| (stream.next..stream.end).contains(&run.first)) {
            *stream = Stream { end: run.first, window: 0, ..*stream };
        }
    }
}

impl Node {
    /// Asks for the pages after one that has faulted to be read, if it continues a stream.
    pub(super) fn read_ahead(&mut self, now: Tick, home: Rank, page: Page) {
        let most = self.config.read_ahead;
        if most == 0 {
            return;
        }
        // Pages beyond belong to another home or to another node of this rank.
        let stripe_end = Page((page.0 - page.0 % STRIPE_PAGES).saturating_add(STRIPE_PAGES));
        let limit = self.config.homes.segment_end(page).map_or(stripe_end, |end| end.min(stripe_end));
        let Some((from, end)) = self.streams.fault(page, most, limit) else { return };
        self.out.flush_acquire();
        self.make_room(now, end.0.saturating_sub(from.0));
        let piece = u32::from((most / PIECES).max(1));
        for at in (from.0..end.0).map(Page) {
            if self.room() == 0 {
                self.streams.cut(at);
                break;
            }
            if at.0 % piece == 0 {
                self.out.flush_acquire();
            }
            if self.cache.table.get(at).state == CacheState::Invalid {
                self.stats.ahead += 1;
                self.ask(now, home, at, Access::Read, Urgency::Ahead);
            }
        }
    }
}
