//! The RDMA transport's endpoints between two processes of one host, beside the tools of Debian's perftest, which use the verbs library alone.
//!
//! - [`pair`]: the two processes: the one that measures, and the home, whose memory is read;
//! - [`perftest`]: runs the tools and reads what they print;
//! - [`helper`]: processes that end with what started them;
//! - [`measurements`]: what is measured, each with its floor and goal, and in which rounds;
//! - [`faults`]: faults to read pages of the other rank's, with the memory engine over the transport;
//! - [`costs`]: what an operation needs of messages, work requests and processor time, counted.

pub mod costs;
pub mod faults;
pub mod helper;
pub mod measurements;
pub mod pair;
pub mod perftest;
