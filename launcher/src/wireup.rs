//! How ranks find each other, make sure that they are alike, and connect.
//!
//! Rank 0 opens a [`door`] and publishes a [`card`], by [`mpi`] or in an [`address_file`]. The others come ([`member`]), prove to
//! know the card's secret and say what they are ([`message`]). Rank 0 ([`coordinator`]) compares them ([`difference`]), says who
//! listens where ([`placement`], [`network`]) and what connects them ([`selection`]), and all connect with all ([`mesh`], [`rdma`]). From then
//! on all know each other to be alive ([`signs`], [`hearing`]). On a difference every rank ends, and one of
//! them says why. MPI is not used after the card is there.

pub(crate) mod address_file;
pub(crate) mod card;
pub(crate) mod channel;
pub(crate) mod coordinator;
pub(crate) mod difference;
pub(crate) mod door;
pub(crate) mod hearing;
pub(crate) mod member;
pub(crate) mod mesh;
pub(crate) mod message;
pub(crate) mod mpi;
pub(crate) mod network;
pub(crate) mod placement;
#[cfg(feature = "rdma")]
pub(crate) mod rdma;
#[cfg(not(feature = "rdma"))]
#[path = "wireup/no_rdma.rs"]
pub(crate) mod rdma;
pub(crate) mod selection;
pub(crate) mod signs;

use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use vincs_transport_tcp::secret::{MachineId, Secret};

use crate::ctl::Desk;
use crate::host::Place;
use crate::rank::{RankInfo, Source};
use address_file::Published;
use card::{Card, CardError};
use channel::Channel;
use coordinator::Present;
use door::{Door, OpenDoor, Reach, Visitor};
use mesh::Mesh;
use message::{Hello, Introduction, Roster, Settings, VERSION};
use mpi::{MPI_TIME, MpiError};

/// How long a step of the wire-up may take once all ranks are there; connecting is the longest. A rank that hangs is known before by its
/// silence.
const STEP_TIME: Duration = Duration::from_secs(70);

// Once by TCP, and once by RDMA over that.
const _: () = assert!(STEP_TIME.as_secs() > 2 * vincs_transport_tcp::fabric::CONNECT_TIME.as_secs());

/// How much longer than the rank before it a rank looks for rank 0, so that the lowest that is there is the one that says that there is no
/// machine: what starts the ranks ends the others meanwhile, which takes mpirun one to two seconds.
const RANK_STEP: Duration = Duration::from_secs(4);

/// How much longer than rank 0 a rank looks at most. Beyond, ranks that are all that is there speak together.
const MOST_STEPS: Duration = Duration::from_secs(40);

/// How long a rank without a machine stays: what starts the ranks may end them all when the first of them ends, also one that has not been heard yet.
pub(crate) const HEARD_TIME: Duration = Duration::from_secs(1);

const _: () = assert!(HEARD_TIME.as_millis() + 2000 < RANK_STEP.as_millis());

/// This rank.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) introduction: Introduction,
    pub(crate) hello: Hello,
}

impl Own {
    /// What a rank says of itself.
    pub(crate) fn new(info: RankInfo, place: &Place, hello: Hello) -> Self {
        let introduction = Introduction {
            version: VERSION,
            rank: info.rank,
            ranks: info.ranks,
            host: place.host.clone(),
            vincs: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Self { introduction, hello }
    }
}

/// What only the ranks of one machine know.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) machine: MachineId,
    pub(crate) secret: Secret,
}

/// How the user wants the ranks to find each other.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    /// The file for the card where MPI is of no use.
    pub(crate) address_file: Option<PathBuf>,
    /// How long all may take to come.
    pub(crate) timeout: Duration,
}

impl Means {
    /// How long this rank looks for rank 0, which itself waits for [`Self::timeout`].
    fn limit(&self, rank: u32) -> Duration {
        self.timeout + RANK_STEP.saturating_mul(rank).min(MOST_STEPS)
    }

    /// How long MPI's exchange may take. Where the address file is another way, all give up at once to take it.
    fn mpi_limit(&self, rank: u32) -> Duration {
        match self.address_file {
            Some(_) => self.timeout.min(MPI_TIME),
            None => self.limit(rank),
        }
    }
}

/// Ranks that are connected.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) mesh: Mesh,
    pub(crate) roster: Roster,
    /// On rank 0 the connections to all others, by rank; elsewhere that to rank 0.
    pub(crate) channels: Vec<Channel>,
    /// What rank 0 keeps for those that come late, as long as the machine runs.
    pub(crate) doorstep: Option<Doorstep>,
    /// On rank 0: who comes late.
    pub(crate) visitors: Option<Receiver<Visitor>>,
}

/// What lets those that come late find the machine.
#[derive(Debug)]
pub(crate) struct Doorstep {
    /// The address file, removed when this is dropped.
    _published: Option<Published>,
    _open: OpenDoor,
    /// Where those come who order the machine about.
    pub(crate) desk: Desk,
}

/// There is no machine with this rank.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    /// Why, in one line.
    pub(crate) line: String,
    /// Rank 0 has told the user.
    pub(crate) said: bool,
}

impl Refusal {
    pub(crate) fn new(line: impl Into<String>) -> Self {
        Self { line: line.into(), said: false }
    }
}

/// How the card has come.
enum Way {
    Mpi(Box<Card>),
    File(PathBuf),
}

/// Wires the machine up as rank 0. `decide` says from all that is present, rank 0 first, what the machine is; `say` tells the user why there is
/// none, and what is worth a word but no failure.
///
/// # Errors
/// [`Refusal`]; all ranks that can be reached have been told.
pub(crate) fn as_rank_0(
    info: RankInfo,
    place: &Place,
    own: &Own,
    means: &Means,
    say: impl Fn(&str),
    decide: impl FnOnce(&[Present<'_>]) -> Result<Settings, String>,
) -> Result<Machine, Refusal> {
    let failed = |what: &str, error: std::io::Error| {
        Refusal::new(format!("rank 0 on {}: {what}: {error}", own.introduction.host))
    };
    let reach = match own.hello.net_if {
        Some(address) => Reach::At(address),
        None if info.one_host => Reach::ThisHost,
        None => Reach::Everywhere,
    };
    let machine = MachineId::random().map_err(|error| failed("no random numbers", error))?;
    let secret = Secret::random().map_err(|error| failed("no random numbers", error))?;
    let keys = Keys { machine, secret };
    let desk = Desk::default();
    let door = Door::open(reach, &keys.secret, desk.clone());
    let door = door.map_err(|error| failed("cannot listen for the other ranks", error))?;
    let card = Card::new(machine, keys.secret.clone(), place, door.addresses.clone());
    let published =
        match way(info, means, card.to_json().as_bytes(), &say).map_err(|error| said_of(own, &error.to_string()))? {
            // Those that join later look there.
            Way::Mpi(_) => means.address_file.as_deref().and_then(|path| {
                let published = Published::write(path, &card);
                published.inspect_err(|error| say(&format!("no rank can join by a file: {error}"))).ok()
            }),
            Way::File(path) => Some(Published::write(&path, &card).map_err(|error| said_of(own, &error.to_string()))?),
        };
    let Door { visitors, open, .. } = door;
    let machine = coordinator::coordinate(&visitors, own, &keys, means.timeout, (&say, decide))?;
    let doorstep = Some(Doorstep { _published: published, _open: open, desk });
    Ok(Machine { doorstep, visitors: Some(visitors), ..machine })
}

/// Wires this rank up with its rank 0.
///
/// # Errors
/// [`Refusal`] when there will be no machine with it.
pub(crate) fn as_member(info: RankInfo, place: &Place, own: &Own, means: &Means) -> Result<Machine, Refusal> {
    let about = |refusal: Refusal| if refusal.said { refusal } else { said_of(own, &refusal.line) };
    let way = way(info, means, &[], |_| {})
        .map_err(|error| Refusal { said: error.is_everywhere(), ..said_of(own, &error.to_string()) })?;
    let card = || match &way {
        Way::Mpi(card) => Ok(card.as_ref().clone()),
        Way::File(path) => {
            address_file::read(path).map_err(|error| format!("address file {}: {error}", path.display()))
        }
    };
    let limit = means.limit(info.rank);
    let (channel, card) = member::reach(card, &place.boot_id, limit).map_err(about)?;
    let keys = Keys { machine: card.machine, secret: card.secret };
    member::join(channel, own, &keys, limit).map_err(about)
}

fn said_of(own: &Own, line: &str) -> Refusal {
    Refusal::new(format!("{}: {line}", difference::who(&own.introduction)))
}

/// Why a rank has no way to the card.
#[derive(Debug, thiserror::Error)]
enum WayError {
    #[error("the ranks ({0}) are not started by MPI: give --address-file FILE, a file that all ranks see")]
    NoFile(Source),
    #[error("rank 0's card by MPI: {0}")]
    Card(CardError),
    #[error("wire-up by MPI: {0}; give --address-file FILE to do without")]
    Mpi(MpiError),
}

impl WayError {
    /// Whether all ranks have the same cause, rank 0 too, so that it says it. What a host lacks, others may have; and who has waited for
    /// longer than rank 0 may be the first to speak, as may who was started by hand.
    fn is_everywhere(&self) -> bool {
        match self {
            Self::NoFile(source) => *source != Source::Options,
            Self::Mpi(MpiError::Nothing) => true,
            Self::Card(_)
            | Self::Mpi(MpiError::Deadline(_) | MpiError::NoHelper | MpiError::Start(..) | MpiError::Failed { .. }) => {
                false
            }
        }
    }
}

/// The card by MPI where there is one; else where the address file is. All ranks come to the same result.
fn way(info: RankInfo, means: &Means, blob: &[u8], note: impl Fn(&str)) -> Result<Way, WayError> {
    let file = means.address_file.as_deref();
    if !info.source.may_be_mpi() {
        return file.map(|path| Way::File(path.to_owned())).ok_or(WayError::NoFile(info.source));
    }
    let card = mpi::exchange(info, blob, means.mpi_limit(info.rank));
    match (card.map(|card| Card::from_json(&card)), file) {
        (Ok(Ok(card)), _) => Ok(Way::Mpi(Box::new(card))),
        (Ok(Err(error)), _) => Err(WayError::Card(error)),
        (Err(error), Some(path)) => {
            note(&without_mpi(&error, path));
            Ok(Way::File(path.to_owned()))
        }
        (Err(error), None) => Err(WayError::Mpi(error)),
    }
}

fn without_mpi(error: &MpiError, path: &Path) -> String {
    format!("wire-up by MPI: {error}; the address file {} is used instead", path.display())
}

#[cfg(test)]
mod tests {
    use std::io;

    use vincs_slurm::Launcher;

    use super::*;

    #[test]
    fn what_only_this_host_lacks_or_knows_is_said_by_its_rank() {
        let own = [
            MpiError::NoHelper,
            MpiError::Start("vincs-mpi".into(), io::ErrorKind::PermissionDenied.into()),
            MpiError::Deadline(MPI_TIME),
        ];
        assert!(own.into_iter().all(|error| !WayError::Mpi(error).is_everywhere()));
        assert!(!WayError::Card(CardError::Malformed).is_everywhere(), "rank 0 can read its own");
        assert!(WayError::Mpi(MpiError::Nothing).is_everywhere());
        assert!(WayError::NoFile(Source::Launcher(Launcher::Slurm)).is_everywhere());
        assert!(!WayError::NoFile(Source::Options).is_everywhere(), "each has a terminal of its own");
    }

    #[test]
    fn each_rank_looks_longer_than_the_one_before_it_up_to_a_limit() {
        let timeout = Duration::from_secs(100);
        let by_mpi = Means { address_file: None, timeout };
        let most = u32::try_from(MOST_STEPS.as_secs() / RANK_STEP.as_secs()).unwrap();
        assert_eq!(by_mpi.limit(0), timeout);
        assert!((0..most).all(|rank| by_mpi.limit(rank + 1) == by_mpi.limit(rank) + RANK_STEP));
        assert_eq!(by_mpi.limit(most + 1), timeout + MOST_STEPS);
        assert_eq!(by_mpi.mpi_limit(3), by_mpi.limit(3));
        let by_either = Means { address_file: Some("a".into()), timeout };
        assert_eq!((by_either.mpi_limit(0), by_either.mpi_limit(3)), (MPI_TIME, MPI_TIME));
        assert_eq!(by_either.limit(3), by_mpi.limit(3));
    }
}
