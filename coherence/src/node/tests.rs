//! Tests of whole nodes, several of them beside each other in a small machine.

mod document;
mod eviction;
mod flows;
mod hand_overs;
mod holds;
mod machine;
mod random;
mod read_ahead;
mod refusals;
mod windows;
