//! `vincs`: boots a stock Linux kernel and runs a command in it.
//!
//! - [`cli`] says what can be asked, [`input`] and [`prepare`] check it before anything is started;
//! - [`guest`] makes what the guest is given, [`machine`] puts the machine together, [`mod@run`] sees it to its end;
//! - [`doctor`] tells what this host can do.

mod cli;
mod doctor;
mod guest;
mod host;
mod input;
mod machine;
mod prepare;
mod run;
mod stats;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use clap::error::ErrorKind;

use cli::{Action, Cli, DoctorArgs, RunArgs};
use prepare::{Console, Plan};
use run::ending::{STATUS_BAD_INPUT, STATUS_OWN_FAILURE};
use run::session::{self, Outcome, Terms};
use stats::{Clock, Config, Stats};

/// Environment variable that turns logging on, as a filter of tracing-subscriber.
const LOG_VARIABLE: &str = "VINCS_LOG";

fn main() -> ExitCode {
    let clock = Arc::new(Clock::start());
    log_if_asked();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return match error.print() {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(STATUS_OWN_FAILURE),
            };
        }
        Err(error) => return refuse(&cli::one_line(&error)),
    };
    match cli.action {
        Some(Action::Doctor(args)) => diagnose(&args),
        None => run(&cli.run, &clock),
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

fn run(args: &RunArgs, clock: &Arc<Clock>) -> ExitCode {
    let Plan { machine, kernel_path, stats } = match prepare::prepare(args) {
        Ok(plan) => plan,
        Err(error) => return refuse(&error.to_string()),
    };
    let config = Config::of(&machine, kernel_path);
    let command = machine.command.as_ref().map_or_else(|| "the guest".to_owned(), |command| command.name.clone());
    let console_is_seen = matches!(machine.console, Console::Stderr | Console::Terminal);
    let terms = Terms { boot_timeout: args.boot_timeout(), time_stdout: stats.is_some(), clock: Arc::clone(clock) };
    let outcome = session::run(machine, &terms);
    let times = clock.times();
    report(&outcome, &command, console_is_seen);
    let mut status = outcome.ending.status();
    if let Some(file) = stats {
        let stats = Stats { config, ending: outcome.ending.name(), status, times, machine: outcome.counters };
        if let Err(error) = file.write(&stats) {
            say(&error.to_string());
            status = if status == 0 { STATUS_OWN_FAILURE } else { status };
        }
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
