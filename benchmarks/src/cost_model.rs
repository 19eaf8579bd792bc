//! What page faults cost on a machine that is not at hand, and how many there can be: predicted from what its parts take.
//!
//! - [`inputs`]: what the parts take, and where that is from;
//! - [`closed_form`]: the path of each kind of fault through the protocol, and its time when nothing else is under way;
//! - [`throughput`]: how many faults a home, a rank and the machine take;
//! - [`simulated`]: the same faults by the protocol's own code, in the simulator with these times;
//! - [`report`]: all of it as tables, and a check against what was measured. Explained in docs/cost-model.md.

pub mod closed_form;
pub mod inputs;
pub mod report;
pub mod simulated;
pub mod throughput;
