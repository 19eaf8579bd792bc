//! `vincs-rank`: `vincs` that insists on being one rank of several, so that a launcher that does not tell ranks is an error and
//! not as many machines as it started programs.

use std::process::ExitCode;

fn main() -> ExitCode {
    vincs_launcher::main(vincs_launcher::Program::VincsRank)
}
