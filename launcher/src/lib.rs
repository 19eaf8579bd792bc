//! `vincs` and `vincs-rank`: boot a stock Linux kernel and run a command in it, on this host or over several ranks.
//!
//! - `cli` says what can be asked, `input` and `prepare` check it before anything is started;
//! - `guest` makes what the guest is given, `machine` puts the machine together, `run` sees it to its end;
//! - `rank` finds out whether this is one rank of several, `wireup` connects them, `cluster` runs one;
//! - [`ctl`] orders a machine about while it runs;
//! - `doctor` tells what this host can do.

mod cli;
mod cluster;
pub mod ctl;
mod doctor;
mod guest;
mod host;
mod input;
mod machine;
mod prepare;
mod rank;
mod run;
mod stats;
mod wireup;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use cli::{Action, Cli, DoctorArgs, RunArgs};
use cluster::Others;
use prepare::{Console, Plan};
use rank::RankError;
use run::ending::{STATUS_BAD_INPUT, STATUS_OWN_FAILURE};
use run::session::{self, Outcome, Terms};
use stats::{Clock, Config, Stats};
use vincs_slurm::Environment;

/// Environment variable that turns logging on, as a filter of tracing-subscriber.
const LOG_VARIABLE: &str = "VINCS_LOG";

/// Which of the two programs this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    /// `vincs`: one rank of several where a launcher says so, else alone.
    Vincs,
    /// `vincs-rank`: always a rank.
    VincsRank,
}

/// Runs the program with this process's arguments, environment and standard streams; its exit status.
#[must_use]
pub fn main(program: Program) -> ExitCode {
    let clock = Arc::new(Clock::start());
    log_if_asked();
    let mut command = Cli::command();
    let asked = command.try_get_matches_from_mut(std::env::args_os()).and_then(|matches| {
        let arguments = cli::arguments::list(&command, &matches);
        Ok((Cli::from_arg_matches(&matches)?, arguments))
    });
    let (cli, asked) = match asked {
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return match error.print() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(STATUS_OWN_FAILURE),
            };
        }
        Err(error) => (None, Err(cli::one_line(&error))),
        Ok((Cli { action: Some(Action::Doctor(args)), .. }, _)) => return diagnose(&args),
        Ok((Cli { action: Some(Action::Ctl(args)), .. }, _)) => {
            return match ctl::run(&args) {
                Ok(()) => ExitCode::SUCCESS,
                Err((status, line)) => {
                    say(&line);
                    ExitCode::from(status)
                }
            };
        }
        Ok((Cli { run, .. }, arguments)) => (Some((run.cluster.rank, run.cluster.ranks)), Ok((run, arguments))),
    };
    // Whatever started it: which rank it is the machine says.
    let asked = match asked {
        Ok((args, _)) if args.cluster.join.is_some() => {
            let target = args.cluster.join.clone().unwrap_or_default();
            return cluster::join::run(&target, &args);
        }
        Ok((args, _)) if args.useless_grace().is_some() => Err(args.useless_grace().unwrap_or_default().to_owned()),
        // What is wrong with such a command line comes before that nothing says which rank it is.
        Err(line) if cli::wants_to_join(std::env::args_os()) => return refuse(&line),
        asked => asked,
    };
    let environment: Environment = std::env::vars_os().collect();
    let (rank, ranks) = cli.unwrap_or_default();
    let allocation = vincs_slurm::allocation(&environment);
    let info = rank::from_options(rank, ranks).and_then(|info| match (info, &allocation) {
        (Some(info), _) => Ok(Some(info)),
        (None, Ok(allocation)) => rank::of_launcher(allocation),
        (None, Err(error)) => Err(error.clone().into()),
    });
    // What is wrong with it does not matter to who gives --rank.
    let job = allocation.unwrap_or_default().job;
    match (info, asked) {
        (Ok(None), _) if program == Program::VincsRank => refuse(&RankError::None.to_string()),
        (Ok(Some(info)), asked) if info.ranks > 1 => cluster::run(info, job.as_ref(), asked, &clock),
        (Ok(_), Ok((args, _))) => run(&args, &clock),
        (_, Err(line)) => refuse(&line),
        (Err(error), _) => refuse(&error.to_string()),
    }
}

/// Logs to stderr, never to stdout, which is CMD's.
fn log_if_asked() {
    let Ok(filter) = std::env::var(LOG_VARIABLE) else { return };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

fn diagnose(args: &DoctorArgs) -> ExitCode {
    match doctor::run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => refuse(&error.to_string()),
    }
}

/// Runs a machine of one rank.
fn run(args: &RunArgs, clock: &Arc<Clock>) -> ExitCode {
    match prepare::prepare(args, 1) {
        Ok(plan) => run_plan(args, plan, None, clock),
        Err(error) => refuse(&error.to_string()),
    }
}

/// Runs a machine, alone or as rank 0 of several, and says how it ended.
fn run_plan(args: &RunArgs, plan: Plan, others: Option<Others>, clock: &Arc<Clock>) -> ExitCode {
    let Plan { machine, kernel_path, stats, symbols, .. } = plan;
    let config = Config::of(&machine, kernel_path, others.as_ref());
    let command = machine.command.as_ref().map_or_else(|| "the guest".to_owned(), |command| command.name.clone());
    let console_is_seen = matches!(machine.console, Console::Stderr | Console::Terminal);
    let ranks = others.as_ref().map_or(1, |others| others.cluster.ranks);
    let boot_timeout = args.boot_timeout(ranks);
    let terms = Terms { boot_timeout, time_stdout: stats.is_some(), clock: Arc::clone(clock) };
    let outcome = session::run(machine, others.clone(), &terms);
    let times = clock.times();
    report(&outcome, &command, console_is_seen);
    let mut status = outcome.ending.status();
    let no_success = |status| if status == 0 { STATUS_OWN_FAILURE } else { status };
    // Output that is lost is none.
    for line in outcome.losses.lines() {
        say(&line);
        status = no_success(status);
    }
    if let Some(file) = stats {
        let ranks = outcome.counters.as_ref().map(|counters| counters.ranks.as_slice()).unwrap_or_default();
        let hottest_pages = stats::hottest::pages(ranks, symbols.as_ref());
        let counters = outcome.counters;
        let stats = Stats { config, ending: outcome.ending.name(), status, times, counters, hottest_pages };
        if let Err(error) = file.write(&stats) {
            say(&error.to_string());
            status = no_success(status);
        }
    }
    // Last: what starts the ranks may end them all when the first of them ends.
    if let Some(others) = others {
        others.part(status);
    }
    ExitCode::from(status)
}

/// Says on stderr how the run ended, if it did not end well, with the console's last lines for a failed machine.
fn report(outcome: &Outcome, command: &str, console_is_seen: bool) {
    let Some(message) = outcome.ending.message(command) else { return };
    say(&message);
    if !outcome.ending.is_machine_failure() || console_is_seen {
        return;
    }
    let (panic, lines) = outcome.tail.with(|tail| (tail.panic_line(), tail.lines()));
    if lines.is_empty() {
        return say("the guest's console is empty");
    }
    say("the last lines of the guest's console:");
    let lost = panic.filter(|panic| !lines.contains(panic));
    lost.iter().chain(&lines).for_each(|line| write_line(&format!("  {line}")));
}

fn refuse(message: &str) -> ExitCode {
    say(message);
    ExitCode::from(STATUS_BAD_INPUT)
}

/// One line on stderr, whatever is in the message; a stderr that is closed cannot be told of.
fn say(message: &str) {
    write_line(&format!("vincs: {}", message.lines().collect::<Vec<_>>().join(" ")));
}

fn write_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
