//! Tests of single rules, on a machine in which everything happens at once.

mod document;
mod machine;
mod rules;
