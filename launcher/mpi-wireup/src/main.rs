//! `vincs-mpi RANK RANKS`: hands what is on stdin to all ranks of an MPI job, and writes what all of them had to stdout.
//!
//! It is the only program of vincs that is linked to MPI. Each rank starts one in its own stead: it takes the rank's place in the
//! MPI job, makes one collective exchange, finalises MPI and ends, so that nothing of MPI lives when the machine runs: a rank
//! that dies then is the machine's own business, not a collective that hangs.
//!
//! stdin is one blob of at most [`MAX_BLOB`] bytes. stdout gets one blob of each rank in the order of ranks, each after its length
//! as four bytes, least significant first. Status 0, or 1 with one line on stderr.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use mpi::collective::CommunicatorCollectives;
use mpi::topology::Communicator;

/// Longest blob of a rank in bytes.
const MAX_BLOB: usize = 16 * 1024;

/// A blob as all ranks send it: its length, then it, then zeros. An exchange of equal sizes needs no second one for the lengths.
const SLOT: usize = LENGTH + MAX_BLOB;

/// Bytes of a blob's length.
const LENGTH: usize = 4;

/// Why nothing was exchanged.
#[derive(Debug)]
enum ExchangeError {
    /// The command line is not `RANK RANKS`.
    Usage,
    /// stdin or stdout.
    Stream(io::Error),
    /// More than [`MAX_BLOB`] bytes on stdin.
    TooLong,
    /// MPI was not to be initialised, or was already.
    Initialisation,
    /// MPI has put this process elsewhere than the rank that started it.
    Place { rank: i32, ranks: i32, asked_rank: i32, asked_ranks: i32 },
    /// A rank's blob has a length that cannot be.
    Length(usize),
}

impl std::fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage => write!(f, "usage: vincs-mpi RANK RANKS <blob >blobs"),
            Self::Stream(error) => write!(f, "stdin or stdout: {error}"),
            Self::TooLong => write!(f, "stdin has more than {MAX_BLOB} bytes"),
            Self::Initialisation => write!(f, "MPI cannot be initialised"),
            Self::Place { rank, ranks, asked_rank, asked_ranks } => write!(
                f,
                "MPI has this process as rank {rank} of {ranks}, not {asked_rank} of {asked_ranks}: \
                 it was built with another MPI than the one that starts the ranks"
            ),
            Self::Length(rank) => write!(f, "rank {rank} sent a length that cannot be"),
        }
    }
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "vincs-mpi: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), ExchangeError> {
    let arguments: Vec<i32> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let &[asked_rank, asked_ranks] = arguments.as_slice() else { return Err(ExchangeError::Usage) };
    let slot = read_slot(io::stdin().lock())?;
    let universe = mpi::initialize().ok_or(ExchangeError::Initialisation)?;
    let world = universe.world();
    let (rank, ranks) = (world.rank(), world.size());
    if (rank, ranks) != (asked_rank, asked_ranks) {
        return Err(ExchangeError::Place { rank, ranks, asked_rank, asked_ranks });
    }
    let mut slots = vec![0; SLOT * usize::try_from(ranks).unwrap_or_default()];
    world.all_gather_into(&slot[..], &mut slots[..]);
    drop(universe);
    write_blobs(&slots, io::stdout().lock())
}

/// What is to be read, as a slot.
fn read_slot(from: impl Read) -> Result<Vec<u8>, ExchangeError> {
    let mut blob = Vec::new();
    from.take(MAX_BLOB as u64 + 1).read_to_end(&mut blob)?;
    let length = u32::try_from(blob.len()).ok().filter(|_| blob.len() <= MAX_BLOB).ok_or(ExchangeError::TooLong)?;
    let mut slot = length.to_le_bytes().to_vec();
    slot.extend(blob);
    slot.resize(SLOT, 0);
    Ok(slot)
}

/// Writes each slot without its zeros.
fn write_blobs(slots: &[u8], mut to: impl Write) -> Result<(), ExchangeError> {
    for (rank, slot) in slots.chunks(SLOT).enumerate() {
        let (length, rest) = slot.split_first_chunk::<LENGTH>().ok_or(ExchangeError::Length(rank))?;
        let blob = usize::try_from(u32::from_le_bytes(*length)).ok().and_then(|length| rest.get(..length));
        to.write_all(length)?;
        to.write_all(blob.ok_or(ExchangeError::Length(rank))?)?;
    }
    to.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_comes_back_without_its_zeros() {
        let mut slots = read_slot(&b"one"[..]).unwrap();
        slots.extend(read_slot(&b""[..]).unwrap());
        assert_eq!(slots.len(), 2 * SLOT);
        let mut blobs = Vec::new();
        write_blobs(&slots, &mut blobs).unwrap();
        assert_eq!(blobs, b"\x03\0\0\0one\0\0\0\0");
    }

    #[test]
    fn a_blob_is_bounded_at_its_edge() {
        assert!(read_slot(&vec![1; MAX_BLOB][..]).is_ok());
        assert!(matches!(read_slot(&vec![1; MAX_BLOB + 1][..]), Err(ExchangeError::TooLong)));
    }

    #[test]
    fn a_length_beyond_the_slot_is_refused() {
        let mut slots = read_slot(&b"x"[..]).unwrap();
        slots[..LENGTH].copy_from_slice(&u32::try_from(MAX_BLOB + 1).unwrap().to_le_bytes());
        assert!(matches!(write_blobs(&slots, io::sink()), Err(ExchangeError::Length(0))));
        assert!(matches!(write_blobs(&[1, 0], io::sink()), Err(ExchangeError::Length(0))));
    }
}
