//! The other ranks of a machine that is spread over several: what this rank tells them besides pages, and they it.
//!
//! Rank 0 has the devices, the IOAPIC and the reference clock; the others have vCPUs and memory alone. Over the control
//! channel go interrupts, device accesses and their answers, the clock, statistics and the end of the machine.
//! There is no order between this channel and those of the pages, and none is needed: memory is coherent whatever else
//! is under way.
//!
//! - [`Cluster`]: a rank's place among the others and its channels; [`Features`]: whether a host fits the others.
//! - moves: which rank has which vCPU, and how they go from one to another.
//! - seats: who takes part, as ranks come and leave; placement: which vCPUs go where then; homes: which pages get their home where.
//! - messages: what goes over the control channel, and how it is encoded.
//! - the link sends them, the control thread receives them; forwarding and serving are the two sides of device accesses.
//! - [`Roll`]: who is there when rank 0 is not.
//! - clock: one time-stamp counter for all.

mod clock;
mod config;
mod control;
mod features;
mod forward;
mod homes;
mod link;
mod message;
mod moves;
mod placement;
mod roll;
mod seats;
mod serve;
#[cfg(test)]
pub(crate) mod testing;

pub use clock::{ClockError, ClockStats};
pub(crate) use clock::{Measured, boot_id, same_rate};
pub use config::{Cluster, ClusterError};
pub use control::Moved;
pub(crate) use control::{
    AppliedClock, ClusterEvent, ControlNotes, Elastic, First, HomeMoves, Member, Note, NoteBox, Residents, Side,
    StatisticsSource, notes, spawn,
};
pub use features::{Features, Leaf};
pub(crate) use forward::{Closed, DEVICE_RANK, Forwarder};
pub(crate) use homes::Homes;
pub(crate) use link::ControlLink;
pub use link::KindSent;
pub use message::VERSION;
pub(crate) use message::{Control, Place, VcpuFailure};
pub use moves::RefusedMove;
pub(crate) use moves::{Owner, Owners};
pub use placement::{Placement, Share};
pub use roll::Roll;
pub(crate) use seats::Seats;
pub use seats::{Fixed, MemberState, RemoveError};
pub(crate) use serve::{Devices, Server};
