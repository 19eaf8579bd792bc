//! `testbed`: boots one emulated cluster node and runs a command in it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use vincs_testbed::{Command, End, Sink, SizeError, Testbed, TestbedError, parse_size};

/// Exit status for a wrong command line and for anything missing on this machine.
const STATUS_SET_UP: u8 = 2;
/// Exit status when the time limit passed, as timeout(1) has it.
const STATUS_TIMED_OUT: u8 = 124;
/// Exit status when the node ended before the command, again as timeout(1) for its own failures.
const STATUS_NODE_LOST: u8 = 125;
/// Longest time limit in seconds: a day.
const MAX_TIMEOUT: u64 = 86_400;

/// Boots one emulated cluster node and runs a command in it.
///
/// The node is QEMU's software CPU with nested SVM on a stock Debian kernel, with this machine's root (read-only below an
/// overlay), /dev/kvm and an rdma_rxe interface. The command's output and exit status are passed through.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
struct Cli {
    /// Processors of the node
    #[arg(long, value_name = "N", default_value_t = vincs_testbed::DEFAULT_CPUS)]
    cpus: u32,
    /// Memory of the node: a number with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = size)]
    mem: u64,
    /// Seconds that boot and command together may take
    #[arg(long, value_name = "SECS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT))]
    timeout: u64,
    /// Keep the node's console in this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Tell on standard error how long the node took to boot
    #[arg(long, short)]
    verbose: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run a command in a fresh node
    Run(Run),
    /// Fetch the node's kernel from Debian into the cache, if it is not there
    FetchKernel,
}

#[derive(Debug, Args)]
struct Run {
    /// A script for /bin/sh
    #[arg(long, value_name = "SCRIPT", conflicts_with = "command")]
    sh: Option<OsString>,
    /// Pass standard input to the command, which otherwise has none
    #[arg(long)]
    stdin: bool,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD", required_unless_present = "sh")]
    command: Vec<OsString>,
}

fn size(text: &str) -> Result<u64, SizeError> {
    parse_size(text)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.action {
        Action::Run(run) => start(&cli, run),
        Action::FetchKernel => fetch(),
    };
    ExitCode::from(result.unwrap_or_else(|error| {
        tell(&error.to_string());
        STATUS_SET_UP
    }))
}

fn fetch() -> Result<u8, TestbedError> {
    let image = vincs_testbed::fetch_kernel(&mut |line| tell(line))?;
    tell(&format!("the kernel is {}", image.display()));
    Ok(0)
}

fn start(cli: &Cli, run: &Run) -> Result<u8, TestbedError> {
    let testbed = Testbed {
        cpus: cli.cpus,
        memory: cli.mem,
        timeout: Duration::from_secs(cli.timeout),
        log: cli.log.clone(),
        ..Testbed::default()
    };
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        let number = usize::try_from(signal).unwrap_or_default();
        signal_hook::flag::register_usize(signal, testbed.interrupt.clone(), number)
            .map_err(|source| TestbedError::Io { what: "cannot handle signals".to_owned(), source })?;
    }
    let command = match &run.sh {
        Some(script) => Command::Shell(script.clone()),
        None => Command::Program(run.command.clone()),
    };
    let stdin = run.stdin.then(|| Box::new(io::stdin()) as Box<dyn io::Read + Send>);
    let began = Instant::now();
    let output = testbed.run_with(&command, sink(&io::stdout())?, sink(&io::stderr())?, stdin)?;
    if let (true, Some(boot)) = (cli.verbose, output.boot) {
        let (boot, whole) = (boot.as_secs_f32(), began.elapsed().as_secs_f32());
        tell(&format!("the command started {boot:.1} s after power-on; the run took {whole:.1} s"));
    }
    let failed = |why: &str, status| {
        tell(&format!("{why}; the console's last lines:\n{}", output.console_tail));
        status
    };
    Ok(match &output.end {
        End::Exited(status) => *status,
        End::TimedOut => failed(&format!("no end after {} s (--timeout)", cli.timeout), STATUS_TIMED_OUT),
        End::NodeLost(why) => failed(why, STATUS_NODE_LOST),
        End::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
    })
}

/// A stream of this program without the buffering of std's own handle.
fn sink(stream: &impl AsFd) -> Result<Sink, TestbedError> {
    let fd = stream
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| TestbedError::Io { what: "cannot use the standard streams".to_owned(), source })?;
    Ok(Sink::Write(Box::new(File::from(fd))))
}

/// One message on standard error. Nobody is there to be told when that fails.
fn tell(message: &str) {
    let _ = writeln!(io::stderr(), "testbed: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("testbed").chain(words.iter().copied()))
    }

    #[test]
    fn options_have_the_documented_defaults() {
        let cli = parse(&["run", "--", "ls", "-l"]).unwrap();
        assert_eq!((cli.cpus, cli.mem, cli.timeout), (1, 4 << 30, 600));
        assert!(matches!(cli.action, Action::Run(run) if run.command == ["ls", "-l"] && !run.stdin));
    }

    #[test]
    fn a_run_needs_one_command() {
        assert!(parse(&["run"]).is_err());
        assert!(parse(&["run", "--sh", "true", "--", "true"]).is_err());
        assert!(parse(&["run", "--sh", "true"]).is_ok());
    }

    #[test]
    fn time_limits_are_bounded() {
        assert!(parse(&["--timeout", "0", "run", "--sh", "x"]).is_err());
        assert!(parse(&["--timeout", "86400", "run", "--sh", "x"]).is_ok());
        assert!(parse(&["--timeout", "86401", "run", "--sh", "x"]).is_err());
        assert!(parse(&["--mem", "4X", "run", "--sh", "x"]).is_err());
    }
}
