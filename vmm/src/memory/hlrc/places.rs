//! Which page is at which address.

use std::collections::BTreeMap;

use vincs_coherence::id::{PAGE_BYTES, Page, Run};

use super::races::Place;

/// Adjacent pages of one home at adjacent addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Span {
    /// The first page.
    pub(super) first: Page,
    /// How many.
    pub(super) count: u32,
    /// Where the first one is.
    pub(super) address: usize,
    /// Whether they are homed here, and written in place.
    pub(super) here: bool,
    /// Where in which array the first one is.
    pub(super) place: Place,
}

impl Span {
    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.count as usize * PAGE_BYTES
    }

    /// The page after the last.
    pub(super) fn end(&self) -> Page {
        Page(self.first.0 + self.count)
    }
}

/// All spans of a rank. No two of them have pages or addresses in common.
#[derive(Debug, Default)]
pub(super) struct Places {
    by_page: BTreeMap<Page, Span>,
    by_address: BTreeMap<usize, Page>,
}

impl Places {
    pub(super) fn add(&mut self, span: Span) {
        self.by_page.insert(span.first, span);
        self.by_address.insert(span.address, span.first);
    }

    pub(super) fn spans(&self) -> impl Iterator<Item = &Span> {
        self.by_page.values()
    }

    /// The span that an address is in.
    pub(super) fn span_at(&self, address: usize) -> Option<&Span> {
        let (_, first) = self.by_address.range(..=address).next_back()?;
        self.by_page.get(first).filter(|span| address < span.address + span.len())
    }

    /// The page at an address.
    pub(super) fn page_at(&self, address: usize) -> Option<Page> {
        let span = self.span_at(address)?;
        let index = u32::try_from((address - span.address) / PAGE_BYTES).ok()?;
        Some(Page(span.first.0 + index))
    }

    /// Where in which array a page is.
    pub(super) fn place(&self, page: Page) -> Option<Place> {
        let (_, span) = self.by_page.range(..=page).next_back().filter(|(_, span)| page < span.end())?;
        let into = u64::from(page.0 - span.first.0) * PAGE_BYTES as u64;
        Some(Place { offset: span.place.offset + into, ..span.place })
    }

    /// Where the pages of a run are: addresses and lengths in bytes, one for each span. Pages that are nowhere are left out.
    pub(super) fn pieces(&self, run: Run) -> impl Iterator<Item = (usize, usize)> {
        let before_end = self.by_page.range(..run.end()).rev().map(|(_, span)| span);
        before_end.take_while(move |span| span.end() > run.first).map(move |span| {
            let (first, end) = (span.first.max(run.first), span.end().min(run.end()));
            let into = (first.0 - span.first.0) as usize * PAGE_BYTES;
            (span.address + into, (end.0 - first.0) as usize * PAGE_BYTES)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_by_their_address_and_addresses_by_their_page() {
        let mut places = Places::default();
        let place = Place { array: 3, offset: 8192 };
        let span = |first, count, address| Span { first: Page(first), count, address, here: false, place };
        places.add(span(100, 2, 0x8000));
        places.add(span(10, 4, 0x4000));
        places.add(span(14, 1, 0x2_0000));
        let at = [0x3fff, 0x4000, 0x7fff, 0x8000, 0x9fff, 0xa000, 0x2_0fff, 0x2_1000];
        let pages = [None, Some(10), Some(13), Some(100), Some(101), None, Some(14), None];
        assert_eq!(at.map(|address| places.page_at(address)), pages.map(|page| page.map(Page)));
        let pieces = |first, count| places.pieces(Run { first: Page(first), count }).collect::<Vec<_>>();
        assert_eq!(pieces(10, 1), [(0x4000, 4096)]);
        assert_eq!(pieces(12, 10), [(0x2_0000, 4096), (0x6000, 8192)]);
        assert_eq!(pieces(0, 200).len(), 3);
        assert_eq!(pieces(15, 85), []);
        assert_eq!(pieces(200, 5), []);
    }
}
