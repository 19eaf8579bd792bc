//! Who goes through memory page by page, and what is to be had ready for them.

use vincs_coherence::id::Page;

/// Streams that are remembered: what a loop over a few arrays needs, on a few threads.
const STREAMS: usize = 16;
/// Pages had ready at the second page of a stream; twice as many at each later fault of it.
const FIRST_WINDOW: u16 = 4;

/// Adjacent pages that a thread goes through.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Where it will fault next if it goes on.
    next: Page,
    window: u16,
}

/// The streams of a rank.
#[derive(Debug, Default)]
pub(super) struct Streams {
    known: Vec<Stream>,
    /// Which one is replaced next.
    oldest: usize,
}

impl Streams {
    /// There is a fault at a page; gives how many pages after it are worth having, at most `most`. It counts on them.
    pub(super) fn fault(&mut self, page: Page, most: u16) -> u16 {
        if most == 0 {
            return 0;
        }
        if let Some(stream) = self.known.iter_mut().find(|stream| stream.next == page) {
            stream.window = stream.window.saturating_mul(2).max(FIRST_WINDOW).min(most);
            stream.next = Page(page.0.saturating_add(1).saturating_add(stream.window.into()));
            return stream.window;
        }
        let stream = Stream { next: Page(page.0.saturating_add(1)), window: 0 };
        match self.known.get_mut(self.oldest) {
            Some(oldest) => *oldest = stream,
            None => self.known.push(stream),
        }
        self.oldest = (self.oldest + 1) % STREAMS;
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_on_gets_more_each_time_up_to_the_most() {
        let mut streams = Streams::default();
        let mut at = 100;
        let windows = [0; 6].map(|_| {
            let window = streams.fault(Page(at), 20);
            at += 1 + u32::from(window);
            window
        });
        assert_eq!(windows, [0, 4, 8, 16, 20, 20]);
        assert_eq!(streams.fault(Page(7), 20), 0, "elsewhere");
        assert_eq!(streams.fault(Page(at), 20), 20, "and back");
    }

    #[test]
    fn as_many_streams_are_known_as_there_is_room_for() {
        let mut streams = Streams::default();
        for start in 0..=16 {
            assert_eq!(streams.fault(Page(start * 1000), 8), 0);
        }
        assert_eq!(streams.fault(Page(1), 8), 0, "the first one was forgotten");
        assert_eq!(streams.fault(Page(2001), 8), 4);
        assert_eq!(streams.fault(Page(u32::MAX), 8), 0);
        assert_eq!(streams.fault(Page(u32::MAX), 0), 0);
    }
}
