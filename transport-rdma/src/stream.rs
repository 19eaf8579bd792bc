//! How messages are cut into slots, and put together again.
//!
//! A slot is what one work request sends and one posted receive takes: a head of four bytes, then bytes of one message. The head: how many of
//! the receiver's slots the sender gives back (2 bytes), what is in it (2), little-endian like everything here. A slot with nothing behind the
//! head only gives slots back. On iWARP there are slots of [atomics](crate::atomics), which may come between those of a message.
//!
//! A message begins a slot of its own, with a prefix: length of the header (2 bytes), zero (2), length of the body (4); then header and body.
//! It goes on in the slots that follow on the same connection.

use vincs_coherence::transport::{MAX_BODY, MAX_HEADER};

/// Length of a slot in bytes: a page of memory goes into one together with a header of up to half a KiB, and small messages do not waste much.
pub(crate) const SLOT_BYTES: usize = 4096 + 512;

/// Length of a slot's head in bytes.
pub(crate) const HEAD_BYTES: usize = 4;

/// Length of a message's prefix in bytes.
pub(crate) const PREFIX_BYTES: usize = 8;

/// Bytes of messages in a slot.
const ROOM: usize = SLOT_BYTES - HEAD_BYTES;

/// Most slots of a message.
pub(crate) const MAX_SLOTS: usize = slots(MAX_HEADER, MAX_BODY);

/// How many slots a message takes.
pub(crate) const fn slots(header: usize, body: usize) -> usize {
    (PREFIX_BYTES + header + body).div_ceil(ROOM)
}

/// What is in a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    /// A piece of a message, or nothing.
    Message,
    /// Atomic operations and their answers.
    Atomics,
}

impl Content {
    const fn number(self) -> u16 {
        match self {
            Self::Message => 0,
            Self::Atomics => 1,
        }
    }
}

/// The head of a slot that gives back so many slots.
pub(crate) fn head(credits: u16, content: Content) -> [u8; HEAD_BYTES] {
    let ([c0, c1], [n0, n1]) = (credits.to_le_bytes(), content.number().to_le_bytes());
    [c0, c1, n0, n1]
}

/// The prefix of a message; nothing if it is too long.
pub(crate) fn prefix(header: usize, body: usize) -> Option<[u8; PREFIX_BYTES]> {
    if header > MAX_HEADER || body > MAX_BODY {
        return None;
    }
    let [h0, h1] = u16::try_from(header).ok()?.to_le_bytes();
    let [b0, b1, b2, b3] = u32::try_from(body).ok()?.to_le_bytes();
    Some([h0, h1, 0, 0, b0, b1, b2, b3])
}

/// The pieces of a message on their way into slots.
#[derive(Debug)]
pub(crate) struct Pieces<'a, I> {
    rest: I,
    current: &'a [u8],
}

impl<'a, I: Iterator<Item = &'a [u8]>> Pieces<'a, I> {
    pub(crate) fn new(pieces: I) -> Self {
        Self { rest: pieces, current: &[] }
    }

    /// Copies into a slot, behind its head, what fits; says how long the slot is with it.
    pub(crate) fn fill(&mut self, slot: &mut [u8]) -> usize {
        let mut room = slot.get_mut(HEAD_BYTES..).unwrap_or_default();
        let mut filled = HEAD_BYTES;
        while !room.is_empty() {
            if self.current.is_empty() {
                let Some(next) = self.rest.next() else { break };
                self.current = next;
            }
            let (now, later) = self.current.split_at(self.current.len().min(room.len()));
            let (place, behind) = room.split_at_mut(now.len());
            place.copy_from_slice(now);
            (self.current, room) = (later, behind);
            filled += now.len();
        }
        filled
    }
}

/// Bytes that no peer of this version sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum StreamFault {
    #[error("sent {0} bytes where a slot with its head belongs")]
    Head(usize),
    #[error("sent {0} where a zero belongs")]
    Reserved(u16),
    #[error("sent a slot with something that there is not ({0})")]
    Content(u16),
    #[error("sent a message that begins with {0} bytes, which is no beginning")]
    Prefix(usize),
    #[error("sent a message with a header of {header} and a body of {body} bytes, which it cannot have")]
    Lengths { header: usize, body: usize },
    #[error("sent {0} bytes more than its message has")]
    TooMuch(usize),
    #[error("gives back {0} slots, which it did not have")]
    Credits(u16),
}

/// Takes a slot apart: how many slots it gives back, and what is in it.
pub(crate) fn open(slot: &[u8]) -> Result<(u16, Content, &[u8]), StreamFault> {
    let (head, rest) = slot.split_first_chunk::<HEAD_BYTES>().ok_or(StreamFault::Head(slot.len()))?;
    let [c0, c1, n0, n1] = *head;
    let number = u16::from_le_bytes([n0, n1]);
    let content = [Content::Message, Content::Atomics].into_iter().find(|content| content.number() == number);
    Ok((u16::from_le_bytes([c0, c1]), content.ok_or(StreamFault::Content(number))?, rest))
}

/// Lengths of header and body of a message that begins so.
fn lengths(bytes: &[u8]) -> Result<(usize, usize), StreamFault> {
    let prefix = bytes.first_chunk::<PREFIX_BYTES>().ok_or(StreamFault::Prefix(bytes.len()))?;
    let [h0, h1, z0, z1, b0, b1, b2, b3] = *prefix;
    let zero = u16::from_le_bytes([z0, z1]);
    if zero != 0 {
        return Err(StreamFault::Reserved(zero));
    }
    let header = usize::from(u16::from_le_bytes([h0, h1]));
    let body = usize::try_from(u32::from_le_bytes([b0, b1, b2, b3])).unwrap_or(usize::MAX);
    if header > MAX_HEADER || body > MAX_BODY {
        return Err(StreamFault::Lengths { header, body });
    }
    Ok((header, body))
}

/// Puts the messages of one peer together. One that is in one slot is handed out from there, without a copy.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// The beginning of a message whose end has not come.
    begun: Vec<u8>,
    /// Its length.
    needed: usize,
}

impl Assembler {
    /// Takes what is in the next slot, and hands out header and body of the message that ends with it, if one does.
    pub(crate) fn take(&mut self, bytes: &[u8], hand_out: impl FnOnce(&[u8], &[u8])) -> Result<(), StreamFault> {
        if self.begun.is_empty() {
            let (header, body) = lengths(bytes)?;
            self.needed = PREFIX_BYTES + header + body;
            if bytes.len() >= self.needed {
                return finish(bytes, self.needed, hand_out);
            }
            self.begun.reserve(self.needed);
        }
        self.begun.extend_from_slice(bytes);
        if self.begun.len() >= self.needed {
            let result = finish(&self.begun, self.needed, hand_out);
            self.begun.clear();
            return result;
        }
        Ok(())
    }
}

/// Hands out a whole message.
fn finish(bytes: &[u8], needed: usize, hand_out: impl FnOnce(&[u8], &[u8])) -> Result<(), StreamFault> {
    if bytes.len() > needed {
        return Err(StreamFault::TooMuch(bytes.len() - needed));
    }
    let (header, _) = lengths(bytes)?;
    let rest = bytes.get(PREFIX_BYTES..).unwrap_or_default();
    let (header, body) = rest.split_at_checked(header).ok_or(StreamFault::Prefix(bytes.len()))?;
    hand_out(header, body);
    Ok(())
}

/// Where in a ring of `total` bytes the next `length` bytes go that must be in one piece, if they went on at `next`.
pub(crate) fn place(next: usize, length: usize, total: usize) -> usize {
    if next + length <= total { next } else { 0 }
}

/// Slots of both ends: how many of the peer's may be sent to, and how many of our own have to be given back.
#[derive(Debug)]
pub(crate) struct Credits {
    /// The peer's that are free.
    free: u16,
    /// All of the peer's.
    all: u16,
    /// Ours that are free again without the peer knowing it.
    owed: u16,
    /// All of ours.
    ours: u16,
}

impl Credits {
    /// At first all slots of both are free.
    pub(crate) fn new(theirs: u16, ours: u16) -> Self {
        Self { free: theirs, all: theirs, owed: 0, ours }
    }

    /// Uses a slot of the peer's; false if there is none.
    pub(crate) fn spend(&mut self) -> bool {
        let any = self.free > 0;
        self.free = self.free.saturating_sub(1);
        any
    }

    /// The peer gives back slots of its own.
    pub(crate) fn regain(&mut self, count: u16) -> Result<(), StreamFault> {
        let free = self.free.checked_add(count).filter(|free| *free <= self.all);
        self.free = free.ok_or(StreamFault::Credits(count))?;
        Ok(())
    }

    /// Slots of ours are free again.
    pub(crate) fn owe(&mut self, count: u16) {
        self.owed = self.owed.saturating_add(count);
    }

    /// What goes back with the next slot.
    pub(crate) fn pay(&mut self) -> u16 {
        std::mem::take(&mut self.owed)
    }

    /// Whether so much is to be given back that it cannot wait for a message: half of all. So at most two slots that only give slots back are
    /// on their way to a peer that takes none.
    pub(crate) fn is_overdue(&self) -> bool {
        self.owed >= self.ours.div_ceil(2)
    }
}

#[cfg(test)]
mod tests;
