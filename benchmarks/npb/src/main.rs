//! `npb KERNEL CLASS [--threads N]`: runs a NAS Parallel Benchmark on threads of this machine.

use std::io::{self, Write};
use std::process::ExitCode;
use std::thread::available_parallelism;

use vincs_npb::command::{Command, HELP, parse};
use vincs_npb::report::Report;
use vincs_npb::team::threads;

/// Status on wrong arguments.
const STATUS_ARGUMENTS: u8 = 2;

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let command = match parse(arguments) {
        Ok(command) => command,
        Err(error) => return failed(STATUS_ARGUMENTS, &error),
    };
    let (report, verified) = match run(command) {
        Ok(done) => done,
        Err(error) => return failed(1, &*error),
    };
    match io::stdout().lock().write_all(report.as_bytes()) {
        Ok(()) if verified => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => failed(1, &error),
    }
}

/// What to print, and whether all is well.
fn run(command: Command) -> Result<(String, bool), Box<dyn std::error::Error>> {
    let Command::Run { kernel, class, threads } = command else { return Ok((HELP.to_owned(), true)) };
    let threads = match threads {
        Some(threads) => threads,
        None => available_parallelism()?,
    };
    let threads = threads.get();
    let outcome = threads::run(threads, |team| kernel.run(team, class))??;
    let verified = outcome.verified;
    Ok((Report { kernel, class, threads, outcome }.to_string(), verified))
}

fn failed(status: u8, error: &dyn std::error::Error) -> ExitCode {
    // Nobody is there to be told when this fails.
    let _ = writeln!(io::stderr(), "npb: {error}");
    ExitCode::from(status)
}
