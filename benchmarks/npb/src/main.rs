//! `npb KERNEL CLASS [--threads N | --ranks N [--memory relaxed|strict]]`: runs a NAS Parallel Benchmark on threads or processes of this machine.

use std::error::Error;
use std::io::{self, Write};
use std::num::{NonZeroU16, NonZeroUsize};
use std::process::ExitCode;
use std::thread::available_parallelism;

use vincs_coherence::id::Rank;
use vincs_npb::class::Class;
use vincs_npb::command::{Command, HELP, Members, parse};
use vincs_npb::kernel::Kernel;
use vincs_npb::report::Report;
use vincs_npb::team::ranks::{self, Place, RANK_ARGUMENT, Sharing};
use vincs_npb::team::{guest, threads};
use vincs_vmm::memory::hlrc::races::{RACE_CHECK_VARIABLE, race_check};

/// Status on wrong arguments.
const STATUS_ARGUMENTS: u8 = 2;

fn main() -> ExitCode {
    let mut arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let follows = arguments.first().is_some_and(|first| first == RANK_ARGUMENT);
    if follows {
        arguments.remove(0);
    }
    let command = match parse(arguments.iter().cloned()) {
        Ok(command) => command,
        Err(error) => return failed(STATUS_ARGUMENTS, &error),
    };
    let checks = match race_check(std::env::var_os(RACE_CHECK_VARIABLE)) {
        Ok(checks) => checks,
        Err(error) => return failed(STATUS_ARGUMENTS, &error),
    };
    let done = match command {
        Command::Help => Ok(Some((HELP.to_owned(), true))),
        Command::Run { kernel, class, members: Members::Threads(threads) } => on_threads(kernel, class, threads),
        Command::Run { kernel, class, members: Members::Ranks(ranks, sharing) } => {
            let place = if follows { Place::follow() } else { Place::lead(ranks.get(), &arguments) };
            let run = |place: Place| on_ranks(place.looking_for_races(checks), kernel, class, (ranks, sharing));
            place.map_err(Into::into).and_then(run)
        }
    };
    match done {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some((report, verified))) => match io::stdout().lock().write_all(report.as_bytes()) {
            Ok(()) if verified => ExitCode::SUCCESS,
            Ok(()) => ExitCode::FAILURE,
            Err(error) => failed(1, &error),
        },
        Err(error) => failed(1, &*error),
    }
}

/// What to print, if anything, and whether all is well.
type Done = Result<Option<(String, bool)>, Box<dyn Error>>;

fn on_threads(kernel: Kernel, class: Class, threads: Option<NonZeroUsize>) -> Done {
    let (members, outcome) = if guest::is_there() {
        let (members, outcome) = guest::run(threads.map(NonZeroUsize::get), |team| kernel.run(team, class))?;
        (members, outcome.ok_or("no member has an outcome")??)
    } else {
        let members = threads.map_or_else(available_parallelism, Ok)?.get();
        (members, threads::run(members, |team| kernel.run(team, class))??)
    };
    let verified = outcome.verified;
    Ok(Some((Report { kernel, class, members, ranks: None, outcome }.to_string(), verified)))
}

fn on_ranks(place: Place, kernel: Kernel, class: Class, (ranks, sharing): (NonZeroU16, Sharing)) -> Done {
    let leads = place.rank() == Rank(0);
    let (outcome, costs) = ranks::run(place, sharing, kernel.room(class), |team| kernel.run(team, class))?;
    let outcome = outcome?;
    let verified = outcome.verified;
    let report = Report { kernel, class, members: ranks.get().into(), ranks: Some((sharing, costs)), outcome };
    Ok(leads.then(|| (report.to_string(), verified)))
}

fn failed(status: u8, error: &dyn Error) -> ExitCode {
    // Nobody is there to be told when this fails.
    let _ = writeln!(io::stderr(), "npb: {error}");
    ExitCode::from(status)
}
