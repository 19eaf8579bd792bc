//! The first program in the guest: mounts, loads modules, runs the command, reports its status.

fn main() {}
