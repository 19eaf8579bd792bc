//! `testbed`: boots one emulated cluster node, or several side by side, and runs a command in it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use vincs_testbed::{Command, End, Sink, SizeError, Testbed, TestbedError, parse_size, remote};

/// Exit status for a wrong command line and for anything missing on this machine.
const STATUS_SET_UP: u8 = 2;
/// Exit status when the time limit passed, as timeout(1) has it.
const STATUS_TIMED_OUT: u8 = 124;
/// Exit status when the node ended before the command, again as timeout(1) for its own failures.
const STATUS_NODE_LOST: u8 = 125;
/// Exit status of `on` when the other node is not reached or lost, as ssh has it.
const STATUS_NO_HOST: u8 = 255;
/// Exit status of `on` when nobody reads its output any more: 128 + SIGPIPE, as of a program that this signal ends.
const STATUS_UNREAD: u8 = 141;
/// Longest time limit in seconds: a day.
const MAX_TIMEOUT: u64 = 86_400;

/// Boots one emulated cluster node, or several side by side, and runs a command in it.
///
/// The node is QEMU's software CPU with nested SVM on a stock Debian kernel, with this machine's root (read-only below an
/// overlay), /dev/kvm and an rdma_rxe interface. The command's output and exit status are passed through.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
struct Cli {
    /// Nodes side by side, on a network of their own; the command runs on node0, and `on node1 CMD…` in it on another
    #[arg(long, value_name = "N", default_value_t = 1)]
    hosts: u32,
    /// Processors of each node
    #[arg(long, value_name = "N", default_value_t = vincs_testbed::DEFAULT_CPUS)]
    cpus: u32,
    /// Memory of each node: a number with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = size)]
    mem: u64,
    /// Seconds that boot and command together may take
    #[arg(long, value_name = "SECS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT))]
    timeout: u64,
    /// Keep the node's console in this file; those of others beside it, with their names added
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
    /// Build the node kernel's module of soft-iWARP from Debian's source of it, if it is not in the cache
    FetchSoftIwarp,
    /// In a node: run a command on another one, as ssh does
    #[command(hide = true)]
    On {
        /// The other node
        host: String,
        /// The words of the command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// In a node: run commands for the other ones
    #[command(hide = true)]
    ServeCommands,
    /// In a node: wait until so many other ones run commands
    #[command(hide = true)]
    AwaitHosts {
        /// Other nodes
        others: u32,
    },
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
        Action::FetchSoftIwarp => fetch_soft_iwarp(),
        Action::On { host, command } => Ok(on(host, command)),
        Action::ServeCommands => serve(),
        Action::AwaitHosts { others } => Ok(told(remote::await_hosts(*others).map(|()| 0))),
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

fn fetch_soft_iwarp() -> Result<u8, TestbedError> {
    vincs_testbed::fetch_soft_iwarp(&mut |line| tell(line))?;
    tell("the cache has soft-iWARP for nodes");
    Ok(0)
}

/// `on`, with this program's own streams.
fn on(host: &str, command: &[OsString]) -> u8 {
    told(remote::on(host, command, io::stdin(), &mut io::stdout(), &mut io::stderr()))
}

/// The status, or [`STATUS_NO_HOST`] after telling why there is none. Who closes a pipe has read enough: [`STATUS_UNREAD`], without a word.
fn told(status: Result<u8, remote::OnError>) -> u8 {
    match status {
        Ok(status) => status,
        Err(remote::OnError::Unread(_)) => STATUS_UNREAD,
        Err(error) => {
            tell(&error.to_string());
            STATUS_NO_HOST
        }
    }
}

fn serve() -> Result<u8, TestbedError> {
    let io = |source| TestbedError::Io { what: format!("cannot serve on port {}", remote::PORT), source };
    // It runs whatever it is told to, for whoever connects: on no machine but an emulated node, and there on the network for commands alone.
    let address = remote::control_address().map_err(io)?;
    let listener = TcpListener::bind(address).map_err(io)?;
    remote::serve(&listener).map_err(io)?;
    Ok(0)
}

fn start(cli: &Cli, run: &Run) -> Result<u8, TestbedError> {
    let testbed = Testbed {
        hosts: cli.hosts,
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
        assert_eq!((cli.hosts, cli.cpus, cli.mem, cli.timeout), (1, 1, 4 << 30, 600));
        assert!(matches!(cli.action, Action::Run(run) if run.command == ["ls", "-l"] && !run.stdin));
    }

    #[test]
    fn a_run_needs_one_command() {
        assert!(parse(&["run"]).is_err());
        assert!(parse(&["run", "--sh", "true", "--", "true"]).is_err());
        assert!(parse(&["run", "--sh", "true"]).is_ok());
    }

    #[test]
    fn a_command_for_another_node_may_have_options_of_its_own() {
        let cli = parse(&["--hosts", "2", "on", "node1", "ls", "-l", "--", "--help"]).unwrap();
        let Action::On { host, command } = cli.action else { panic!("{cli:?}") };
        assert_eq!((cli.hosts, host.as_str()), (2, "node1"));
        assert_eq!(command, ["ls", "-l", "--", "--help"]);
        assert!(parse(&["on", "node1"]).is_err());
    }

    #[test]
    fn time_limits_are_bounded() {
        assert!(parse(&["--timeout", "0", "run", "--sh", "x"]).is_err());
        assert!(parse(&["--timeout", "86400", "run", "--sh", "x"]).is_ok());
        assert!(parse(&["--timeout", "86401", "run", "--sh", "x"]).is_err());
        assert!(parse(&["--mem", "4X", "run", "--sh", "x"]).is_err());
    }
}
