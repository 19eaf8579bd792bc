//! Memory that is spread over ranks, natively: each rank is a process of this machine whose threads are its processors,
//! connected by TCP over loopback, or by RDMA.
//!
//! - [`work`]: what a rank is asked to do, and how it does it;
//! - [`cluster`]: starts the ranks and asks them; the first one is this process;
//! - [`wires`]: what connects them;
//! - [`floor`]: what the same would cost without a protocol: the network and the kernel alone;
//! - [`scenarios`]: what is measured; [`report`]: how it is told.

pub mod cluster;
pub mod floor;
pub mod report;
pub mod scenarios;
pub mod wires;
pub mod work;
