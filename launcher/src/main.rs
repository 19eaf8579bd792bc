//! `vincs`: boots a stock Linux kernel and runs a command in it.

fn main() {}
