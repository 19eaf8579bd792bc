//! What is told of races ([`vincs_coherence::hlrc::race`]), and to whom.

use std::fmt;
use std::sync::Arc;

use vincs_coherence::hlrc::diff::Changed;
use vincs_coherence::hlrc::race::{Found, Race};
pub use vincs_guest_commands::{RACE_CHECK_VARIABLE, WrongRaceCheck, race_check};

/// A place in an array.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// Which array, in the order in which ranks have asked for them, from 0.
    pub array: u32,
    /// The byte of it.
    pub offset: u64,
}

/// What there is to be told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RaceReport {
    /// Two ranks have written the same bytes without synchronising.
    Race {
        /// The bytes and the ranks.
        race: Race,
        /// Where the first byte is, if that is an array.
        place: Option<Place>,
    },
    /// Nothing comes any more: what was found.
    End(Found),
}

impl RaceReport {
    /// In one line, with a program's name for the array: a place's name, and the byte of that.
    #[must_use]
    pub fn line(&self, name: impl Fn(Place) -> (String, u64)) -> String {
        match self {
            Self::Race { race, place } => {
                let Race { page, first: Changed { start, end }, more, ranks: [one, other] } = race;
                let bytes = u64::from(end - start);
                let more: usize = more.iter().map(|run| run.range().len()).sum();
                let (what, first) = match place {
                    Some(place) => {
                        let (name, first) = name(*place);
                        (format!("{name} (page {} of relaxed memory, offset {start})", page.0), first)
                    }
                    None => (format!("page {} of relaxed memory", page.0), u64::from(*start)),
                };
                let range = match bytes {
                    1 => format!("byte {first}"),
                    _ => format!("bytes {first} to {}", first + bytes - 1),
                };
                let besides = match more {
                    0 => String::new(),
                    more => format!(", and {more} more of that page"),
                };
                format!(
                    "race: ranks {} and {} have both written {range} of {what}{besides}, with no lock or barrier between",
                    one.0, other.0
                )
            }
            Self::End(Found { reported, more, forgotten }) => {
                let mut line = match (reported, more) {
                    (0, _) => "races: none was found between ranks".to_owned(),
                    (1, 0) => "races: 1 place".to_owned(),
                    (places, 0) => format!("races: {places} places"),
                    (places, more) => format!("races: {places} places, and {more} findings more that are not listed"),
                };
                if *forgotten > 0 {
                    line += &format!(
                        "; {forgotten} writes were forgotten before all ranks had seen them, races with those are missed"
                    );
                }
                line
            }
        }
    }
}

impl fmt::Display for RaceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line(|Place { array, offset }| (format!("array {array}"), offset)))
    }
}

/// Who is told, at rank 0. Called by the thread that serves: it must not block.
#[derive(Clone)]
pub struct RaceSink(Arc<dyn Fn(RaceReport) + Send + Sync>);

impl RaceSink {
    /// Calls this.
    #[must_use]
    pub fn new(told: impl Fn(RaceReport) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(super) fn tell(&self, report: RaceReport) {
        (self.0)(report);
    }
}

impl fmt::Debug for RaceSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RaceSink")
    }
}

#[cfg(test)]
mod tests {
    use vincs_coherence::id::{Page, Rank};

    use super::*;

    #[test]
    fn reports_are_one_line_that_names_the_place_and_the_ranks() {
        let first = Changed { start: 8, end: 16 };
        let race = Race { page: Page(17), first, more: Vec::new(), ranks: [Rank(0), Rank(3)] };
        let place = Some(Place { array: 2, offset: 4104 });
        let report = |race, place| RaceReport::Race { race, place }.to_string();
        assert_eq!(
            report(race.clone(), place),
            "race: ranks 0 and 3 have both written bytes 4104 to 4111 of array 2 (page 17 of relaxed memory, offset 8), with no lock or barrier between"
        );
        assert_eq!(
            report(
                Race { first: Changed { end: 9, ..first }, more: vec![Changed { start: 20, end: 25 }], ..race.clone() },
                None
            ),
            "race: ranks 0 and 3 have both written byte 8 of page 17 of relaxed memory, and 5 more of that page, with no lock or barrier between"
        );
        let device = RaceReport::Race { race, place }.line(|place| ("/dev/dax0.0".to_owned(), place.offset + 100));
        assert!(device.contains(" bytes 4204 to 4211 of /dev/dax0.0 (page 17 "), "{device}");
        let end = |reported, more, forgotten| RaceReport::End(Found { reported, more, forgotten }).to_string();
        assert_eq!(end(0, 0, 0), "races: none was found between ranks");
        assert_eq!([end(1, 0, 0), end(2, 0, 0)], ["races: 1 place", "races: 2 places"]);
        assert_eq!(end(64, 7, 0), "races: 64 places, and 7 findings more that are not listed");
        assert!(
            end(0, 0, 9)
                .ends_with("; 9 writes were forgotten before all ranks had seen them, races with those are missed")
        );
    }
}
