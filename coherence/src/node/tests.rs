//! Tests of whole nodes, several of them beside each other in a small machine.

mod machine;
mod random;
