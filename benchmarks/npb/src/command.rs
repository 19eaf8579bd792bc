//! The command line.

use std::num::{NonZeroU16, NonZeroUsize, ParseIntError};

use crate::class::{Class, NoSuchClass};
use crate::kernel::{Kernel, NoSuchKernel};
use crate::team::ranks::{MAX_TEAM, NoSuchMemory, Sharing};

/// What `--help` says.
pub const HELP: &str = "\
npb KERNEL CLASS [--threads N | --ranks N [--memory relaxed|strict]]: a NAS Parallel Benchmark, verified

  KERNEL       ep, is, cg, mg, ft, bt, lu or sp
  CLASS        S, W, A or B
  --threads N  how many threads, 1 to 1024; without it one on each processor
  --ranks N    how many processes instead, 1 to 64, connected by TCP on this machine
  --memory M   what their arrays are in: relaxed memory, coherent at barriers, which is what they get without it; or strict memory

VINCS_RACE_CHECK=1 in the environment has ranks with relaxed memory tell on standard error of bytes that two of them write without a barrier between.

Ends with status 0 when the results are the published ones, 1 when they are not or there is no memory, 2 on wrong arguments.
";

/// Most threads.
pub const MAX_THREADS: usize = 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Say how to use it.
    Help,
    /// Run a kernel.
    Run {
        /// Which.
        kernel: Kernel,
        /// How large.
        class: Class,
        /// What its team is made of.
        members: Members,
    },
}

/// What a team is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Members {
    /// So many threads; none given means one on each processor.
    Threads(Option<NonZeroUsize>),
    /// So many processes, whose arrays are in such memory.
    Ranks(NonZeroU16, Sharing),
}

/// What is wrong with the arguments.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongArguments {
    /// No such kernel.
    #[error(transparent)]
    Kernel(#[from] NoSuchKernel),
    /// No such class.
    #[error(transparent)]
    Class(#[from] NoSuchClass),
    /// Not both a kernel and a class.
    #[error("give a kernel and a class, as in: npb cg S")]
    Missing,
    /// More than there is a meaning for.
    #[error("{0} is too much: give a kernel, a class and each option once")]
    TooMuch(String),
    /// An option that is not known.
    #[error("no option {0}: there are --threads, --ranks and --memory")]
    Option(String),
    /// No such memory.
    #[error(transparent)]
    Memory(#[from] NoSuchMemory),
    /// Ranks that are no number.
    #[error("--ranks {0:?} is no number of ranks: {1}")]
    Ranks(String, ParseIntError),
    /// More ranks than may be.
    #[error("--ranks {0} is more than {MAX_TEAM}, the most there can be")]
    TooManyRanks(NonZeroU16),
    /// Two kinds of members.
    #[error("give --threads or --ranks, not both")]
    Both,
    /// Memory of threads.
    #[error("--memory is for --ranks: threads have the memory of their process")]
    MemoryOfThreads,
    /// An option without its value.
    #[error("{0} has nothing after it: npb --help tells what can be")]
    NoValue(&'static str),
    /// Threads that are no number.
    #[error("--threads {0:?} is no number of threads: {1}")]
    Threads(String, ParseIntError),
    /// More threads than may be.
    #[error("--threads {0} is more than {MAX_THREADS}, the most there can be")]
    TooManyThreads(NonZeroUsize),
}

/// Reads the arguments, without the program's name.
///
/// # Errors
///
/// They are wrong.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, WrongArguments> {
    let mut arguments = arguments.into_iter();
    let mut names = Vec::new();
    let mut values = OPTIONS.map(|_| None);
    while let Some(argument) = arguments.next() {
        if argument == "-h" || argument == "--help" {
            return Ok(Command::Help);
        }
        if !argument.starts_with('-') {
            if names.len() == 2 {
                return Err(WrongArguments::TooMuch(argument));
            }
            names.push(argument);
            continue;
        }
        let (name, value) = argument.split_once('=').map_or((&*argument, None), |(name, value)| (name, Some(value)));
        let known = OPTIONS.into_iter().zip(&mut values).find(|(option, _)| *option == name);
        let Some((option, slot)) = known else { return Err(WrongArguments::Option(argument)) };
        let value = value.map(str::to_owned).or_else(|| arguments.next()).ok_or(WrongArguments::NoValue(option))?;
        if slot.is_some() {
            return Err(WrongArguments::TooMuch(format!("{option} {value}")));
        }
        *slot = Some(value);
    }
    let [kernel, class] = &names[..] else { return Err(WrongArguments::Missing) };
    Ok(Command::Run { kernel: kernel.parse()?, class: class.parse()?, members: members(values)? })
}

/// Options with a value.
const OPTIONS: [&str; 3] = ["--threads", "--ranks", "--memory"];

fn members([threads, ranks, memory]: [Option<String>; 3]) -> Result<Members, WrongArguments> {
    match (threads, ranks, memory) {
        (Some(_), Some(_), _) => Err(WrongArguments::Both),
        (_, None, Some(_)) => Err(WrongArguments::MemoryOfThreads),
        (threads, None, None) => Ok(Members::Threads(threads.map(number_of_threads).transpose()?)),
        (None, Some(ranks), memory) => {
            let sharing = memory.map_or(Ok(Sharing::Relaxed), |memory| memory.parse())?;
            Ok(Members::Ranks(number_of_ranks(ranks)?, sharing))
        }
    }
}

fn number_of_ranks(text: String) -> Result<NonZeroU16, WrongArguments> {
    let number: NonZeroU16 = text.parse().map_err(|error| WrongArguments::Ranks(text, error))?;
    if number.get() > MAX_TEAM { Err(WrongArguments::TooManyRanks(number)) } else { Ok(number) }
}

fn number_of_threads(text: String) -> Result<NonZeroUsize, WrongArguments> {
    let number: NonZeroUsize = text.parse().map_err(|error| WrongArguments::Threads(text, error))?;
    if number.get() > MAX_THREADS { Err(WrongArguments::TooManyThreads(number)) } else { Ok(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, WrongArguments> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_kernel_a_class_and_threads_in_any_order() {
        let of = |members| Ok(Command::Run { kernel: Kernel::Cg, class: Class::S, members });
        let run = |threads| of(Members::Threads(NonZeroUsize::new(threads)));
        let on = |ranks, sharing| of(Members::Ranks(NonZeroU16::new(ranks).unwrap(), sharing));
        assert_eq!(parsed("cg S"), run(0));
        assert_eq!(parsed("CG s --threads 3"), run(3));
        assert_eq!(parsed("--threads=1024 cg S"), run(MAX_THREADS));
        assert_eq!(parsed("cg --help"), Ok(Command::Help));
        assert_eq!(parsed("cg S --ranks 2"), on(2, Sharing::Relaxed));
        assert_eq!(parsed("cg S --memory strict --ranks=64"), on(MAX_TEAM, Sharing::Strict));
    }

    #[test]
    fn wrong_arguments_are_told_in_one_line() {
        let lines = [
            ("", "give a kernel and a class"),
            ("cg", "give a kernel and a class"),
            ("xx S", "no kernel xx"),
            ("cg Q", "no class Q"),
            ("cg S A", "A is too much"),
            ("cg S --threads", "--threads has nothing after it"),
            ("cg S --ranks", "--ranks has nothing after it"),
            ("cg S --ranks 0", "--ranks \"0\" is no number of ranks"),
            ("cg S --ranks 65", "--ranks 65 is more than 64"),
            ("cg S --ranks 2 --threads 2", "give --threads or --ranks"),
            ("cg S --memory relaxed", "--memory is for --ranks"),
            ("cg S --ranks 2 --memory lazy", "no memory lazy"),
            ("cg S --threads 0", "--threads \"0\" is no number of threads"),
            ("cg S --threads many", "--threads \"many\" is no number of threads"),
            ("cg S --threads -1", "--threads \"-1\" is no number of threads"),
            ("cg S --threads 1025", "--threads 1025 is more than 1024"),
            ("cg S --threads 1 --threads 2", "--threads 2 is too much"),
            ("cg S --fast", "no option --fast"),
        ];
        for (line, expected) in lines {
            let told = parsed(line).unwrap_err().to_string();
            assert!(told.starts_with(expected) && !told.contains('\n'), "{line}: {told}");
        }
    }
}
