//! How messages look on the wire: a version byte, a kind byte, then the fields in their order, little-endian, without padding.
//!
//! | kind | message | fields |
//! |---|---|---|
//! | 1 | Acquire | first page 4, pages 2, access 1, urgency 1, number of versions 2, versions 8 each |
//! | 2 | Grant | first page 4, access 1, pages 2, for each version 8 and content 1 |
//! | 3 | Refuse | first page 4, pages 2 |
//! | 4 | Invalidate | page 4 |
//! | 5 | `InvalidateAck` | page 4 |
//! | 6 | Recall | page 4, keep 1 |
//! | 7 | `WriteBack` | page 4, version 8, keep 1, content 1 |
//! | 8 | Leave | |
//! | 9 | `LeaveAck` | |
//! | 10 | `HandOver` | first page 4, pages 2, rank 2, set of ranks 8 |
//! | 11 | Freeze | first page 4, pages 2, rank 2, set of ranks 8 |
//! | 12 | Frozen | first page 4, pages 2 |
//! | 13 | Requests | page 4, begun 1, requests 2, for each rank 2, access 1, version 8 |
//! | 14 | Entries | first page 4, set of ranks 8, pages 2, for each version 8, state 1, set of ranks 8, content 1 |
//! | 15 | Moved | first page 4, pages 2 |

use crate::id::{Access, MAX_RANKS, MAX_RUN, Page, Rank, RankSet, Run, Version};
use crate::message::{Content, Granted, Handed, HandedState, Keep, Message, Urgency, Waiting};
use crate::node::MAX_HAND_OVER_PAGES;
use crate::transport::MAX_HEADER;

/// Version of everything that ranks send each other about pages; another one is refused.
pub const VERSION: u8 = 3;

/// Longest encoded message in bytes, without its body.
pub const MAX_ENCODED: usize = 4096;

/// Bytes of a page in a Grant: its version and its content.
const GRANTED_BYTES: usize = 9;

/// Bytes of a page in Entries: its version, its state with a set of ranks, and its content.
const HANDED_BYTES: usize = 18;

/// Bytes of one of the Requests: its rank, access and version.
const WAITING_BYTES: usize = 11;

const _: () = assert!(16 + MAX_RUN as usize * GRANTED_BYTES <= MAX_ENCODED);
const _: () = assert!(16 + MAX_HAND_OVER_PAGES as usize * HANDED_BYTES <= MAX_ENCODED);
const _: () = assert!(16 + MAX_RANKS as usize * WAITING_BYTES <= MAX_ENCODED);
const _: () = assert!(MAX_ENCODED <= MAX_HEADER, "transports carry messages in their headers");

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Another version of the protocol.
    #[error("protocol version {0}, this is version {VERSION}; use the same vincs on all ranks")]
    Version(u8),
    /// It ends too early.
    #[error("a message that is cut off")]
    Short,
    /// There is more than the message.
    #[error("{0} bytes too many after a message")]
    Long(usize),
    /// A field has a value it cannot have.
    #[error("{0} with an impossible value")]
    Value(&'static str),
}

/// Puts a message at the end of `bytes`.
pub fn encode(message: &Message, bytes: &mut Vec<u8>) {
    bytes.push(VERSION);
    match message {
        Message::Acquire { run, access, urgency, have } => {
            bytes.push(1);
            put_run(bytes, *run);
            bytes.extend([access_byte(*access), urgency_byte(*urgency)]);
            put_count(bytes, have.len());
            bytes.extend(have.iter().flat_map(|version| version.0.to_le_bytes()));
        }
        Message::Grant { first, access, pages } => {
            bytes.push(2);
            bytes.extend(first.0.to_le_bytes());
            bytes.push(access_byte(*access));
            put_count(bytes, pages.len());
            for Granted { version, content } in pages {
                bytes.extend(version.0.to_le_bytes());
                bytes.push(content_byte(*content));
            }
        }
        Message::Refuse { run } => {
            bytes.push(3);
            put_run(bytes, *run);
        }
        Message::Invalidate { page } => {
            bytes.push(4);
            bytes.extend(page.0.to_le_bytes());
        }
        Message::InvalidateAck { page } => {
            bytes.push(5);
            bytes.extend(page.0.to_le_bytes());
        }
        Message::Recall { page, keep } => {
            bytes.push(6);
            bytes.extend(page.0.to_le_bytes());
            bytes.push(keep_byte(*keep));
        }
        Message::WriteBack { page, version, keep, content } => {
            bytes.push(7);
            bytes.extend(page.0.to_le_bytes());
            bytes.extend(version.0.to_le_bytes());
            bytes.extend([keep_byte(*keep), content_byte(*content)]);
        }
        Message::HandOver { run, to, members } => {
            bytes.push(10);
            put_move(bytes, *run, *to, *members);
        }
        Message::Freeze { run, to, members } => {
            bytes.push(11);
            put_move(bytes, *run, *to, *members);
        }
        Message::Frozen { run } => {
            bytes.push(12);
            put_run(bytes, *run);
        }
        Message::Requests { page, is_begun, requests } => {
            bytes.push(13);
            bytes.extend(page.0.to_le_bytes());
            bytes.push((*is_begun).into());
            put_count(bytes, requests.len());
            for Waiting { from, access, have } in requests {
                bytes.extend(from.0.to_le_bytes());
                bytes.push(access_byte(*access));
                bytes.extend(have.0.to_le_bytes());
            }
        }
        Message::Entries { first, gone, pages } => {
            bytes.push(14);
            bytes.extend(first.0.to_le_bytes());
            bytes.extend(gone.to_bits().to_le_bytes());
            put_count(bytes, pages.len());
            for Handed { version, state, content } in pages {
                bytes.extend(version.0.to_le_bytes());
                let (kind, ranks) = state_fields(*state);
                bytes.push(kind);
                bytes.extend(ranks.to_bits().to_le_bytes());
                bytes.push(content_byte(*content));
            }
        }
        Message::Moved { run } => {
            bytes.push(15);
            put_run(bytes, *run);
        }
        Message::Leave => bytes.push(8),
        Message::LeaveAck => bytes.push(9),
    }
}

/// Reads a message, which must be all of `bytes`.
///
/// # Errors
/// [`DecodeError`] saying what is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    let mut reader = Reader { rest: bytes };
    let version = reader.u8()?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let message = match reader.u8()? {
        1 => {
            let run = reader.run()?;
            let (access, urgency) = (reader.access()?, reader.urgency()?);
            let count = reader.u16()?;
            if count != 0 && count != run.count {
                return Err(DecodeError::Value("number of versions"));
            }
            let have = (0..count).map(|_| reader.version()).collect::<Result<_, _>>()?;
            Message::Acquire { run, access, urgency, have }
        }
        2 => {
            let (first, access) = (reader.page()?, reader.access()?);
            let count = reader.count(first)?;
            let granted = |_| Ok(Granted { version: reader.version()?, content: reader.content()? });
            Message::Grant { first, access, pages: (0..count).map(granted).collect::<Result<_, _>>()? }
        }
        3 => Message::Refuse { run: reader.run()? },
        4 => Message::Invalidate { page: reader.page()? },
        5 => Message::InvalidateAck { page: reader.page()? },
        6 => Message::Recall { page: reader.page()?, keep: reader.keep()? },
        7 => Message::WriteBack {
            page: reader.page()?,
            version: reader.version()?,
            keep: reader.keep()?,
            content: reader.content()?,
        },
        10 => {
            let (run, to, members) = reader.moved()?;
            Message::HandOver { run, to, members }
        }
        11 => {
            let (run, to, members) = reader.moved()?;
            Message::Freeze { run, to, members }
        }
        12 => Message::Frozen { run: reader.run()? },
        13 => {
            let (page, is_begun, count) = (reader.page()?, reader.flag()?, reader.u16()?);
            if !(1..=MAX_RANKS).contains(&count) {
                return Err(DecodeError::Value("number of requests"));
            }
            Message::Requests {
                page,
                is_begun,
                requests: (0..count).map(|_| reader.waiting()).collect::<Result<_, _>>()?,
            }
        }
        14 => {
            let (first, gone) = (reader.page()?, reader.ranks()?);
            let count = reader.count(first)?;
            if count > MAX_HAND_OVER_PAGES {
                return Err(DecodeError::Value("number of pages"));
            }
            Message::Entries { first, gone, pages: (0..count).map(|_| reader.handed()).collect::<Result<_, _>>()? }
        }
        15 => Message::Moved { run: reader.run()? },
        8 => Message::Leave,
        9 => Message::LeaveAck,
        _ => return Err(DecodeError::Value("kind of message")),
    };
    if reader.rest.is_empty() { Ok(message) } else { Err(DecodeError::Long(reader.rest.len())) }
}

fn put_run(bytes: &mut Vec<u8>, run: Run) {
    bytes.extend(run.first.0.to_le_bytes());
    bytes.extend(run.count.to_le_bytes());
}

/// No message has more than [`MAX_RUN`] of anything; one that had would be refused by its reader.
fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend(u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
}

fn access_byte(access: Access) -> u8 {
    match access {
        Access::Read => 0,
        Access::Write => 1,
    }
}

fn urgency_byte(urgency: Urgency) -> u8 {
    match urgency {
        Urgency::Demand => 0,
        Urgency::Ahead => 1,
    }
}

fn content_byte(content: Content) -> u8 {
    match content {
        Content::Data => 0,
        Content::Zero => 1,
        Content::Current => 2,
    }
}

fn keep_byte(keep: Keep) -> u8 {
    match keep {
        Keep::Nothing => 0,
        Keep::Shared => 1,
    }
}

fn put_move(bytes: &mut Vec<u8>, run: Run, to: Rank, members: RankSet) {
    put_run(bytes, run);
    bytes.extend(to.0.to_le_bytes());
    bytes.extend(members.to_bits().to_le_bytes());
}

fn state_fields(state: HandedState) -> (u8, RankSet) {
    match state {
        HandedState::Untouched => (0, RankSet::EMPTY),
        HandedState::Owned(owner) => (1, RankSet::one(owner)),
        HandedState::Shared(sharers) => (2, sharers),
        HandedState::Recalling(owner) => (3, RankSet::one(owner)),
        HandedState::Invalidating(waiting) => (4, waiting),
    }
}

/// What is left of a message.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.take().map(u16::from_le_bytes)
    }

    fn page(&mut self) -> Result<Page, DecodeError> {
        self.take().map(u32::from_le_bytes).map(Page)
    }

    fn version(&mut self) -> Result<Version, DecodeError> {
        self.take().map(u64::from_le_bytes).map(Version)
    }

    /// A number of pages from `first` on.
    fn count(&mut self, first: Page) -> Result<u16, DecodeError> {
        let count = self.u16()?;
        let fits = (1..=MAX_RUN).contains(&count) && first.0.checked_add(count.into()).is_some();
        if fits { Ok(count) } else { Err(DecodeError::Value("number of pages")) }
    }

    fn run(&mut self) -> Result<Run, DecodeError> {
        let first = self.page()?;
        Ok(Run { first, count: self.count(first)? })
    }

    fn access(&mut self) -> Result<Access, DecodeError> {
        match self.u8()? {
            0 => Ok(Access::Read),
            1 => Ok(Access::Write),
            _ => Err(DecodeError::Value("access")),
        }
    }

    fn urgency(&mut self) -> Result<Urgency, DecodeError> {
        match self.u8()? {
            0 => Ok(Urgency::Demand),
            1 => Ok(Urgency::Ahead),
            _ => Err(DecodeError::Value("urgency")),
        }
    }

    fn content(&mut self) -> Result<Content, DecodeError> {
        match self.u8()? {
            0 => Ok(Content::Data),
            1 => Ok(Content::Zero),
            2 => Ok(Content::Current),
            _ => Err(DecodeError::Value("content")),
        }
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Value("flag")),
        }
    }

    fn rank(&mut self) -> Result<Rank, DecodeError> {
        let rank = self.u16()?;
        Rank::try_from(rank).map_err(|_| DecodeError::Value("rank"))
    }

    fn ranks(&mut self) -> Result<RankSet, DecodeError> {
        self.take().map(u64::from_le_bytes).map(RankSet::from_bits)
    }

    /// Pages that move, to whom, and the ranks of the machine.
    fn moved(&mut self) -> Result<(Run, Rank, RankSet), DecodeError> {
        Ok((self.run()?, self.rank()?, self.ranks()?))
    }

    fn waiting(&mut self) -> Result<Waiting, DecodeError> {
        Ok(Waiting { from: self.rank()?, access: self.access()?, have: self.version()? })
    }

    fn handed(&mut self) -> Result<Handed, DecodeError> {
        let (version, kind, ranks) = (self.version()?, self.u8()?, self.ranks()?);
        let mut each = ranks.iter();
        let state = match (kind, each.next(), each.next()) {
            (0, None, None) => HandedState::Untouched,
            (1, Some(owner), None) => HandedState::Owned(owner),
            (2, ..) => HandedState::Shared(ranks),
            (3, Some(owner), None) => HandedState::Recalling(owner),
            (4, ..) => HandedState::Invalidating(ranks),
            _ => return Err(DecodeError::Value("state")),
        };
        Ok(Handed { version, state, content: self.content()? })
    }

    fn keep(&mut self) -> Result<Keep, DecodeError> {
        match self.u8()? {
            0 => Ok(Keep::Nothing),
            1 => Ok(Keep::Shared),
            _ => Err(DecodeError::Value("keep")),
        }
    }
}

#[cfg(test)]
mod tests;
