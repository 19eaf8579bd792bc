//! `vincs`: boots a stock Linux kernel and runs a command in it, on this host or over the ranks it was started as.

use std::process::ExitCode;

fn main() -> ExitCode {
    vincs_launcher::main(vincs_launcher::Program::Vincs)
}
