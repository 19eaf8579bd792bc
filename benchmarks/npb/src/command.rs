//! The command line.

use std::num::{NonZeroUsize, ParseIntError};

use crate::class::{Class, NoSuchClass};
use crate::kernel::{Kernel, NoSuchKernel};

/// What `--help` says.
pub const HELP: &str = "\
npb KERNEL CLASS [--threads N]: a NAS Parallel Benchmark, verified

  KERNEL       ep, is, cg, mg, ft, bt, lu or sp
  CLASS        S, W, A or B
  --threads N  how many threads, 1 to 1024; without it one on each processor

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
        /// On so many threads; none given means one on each processor.
        threads: Option<NonZeroUsize>,
    },
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
    #[error("{0} is too much: give a kernel, a class and --threads N, once each")]
    TooMuch(String),
    /// An option that is not known.
    #[error("no option {0}: there is --threads N")]
    Option(String),
    /// Threads that are no number.
    #[error("--threads {0:?} is no number of threads: {1}")]
    Threads(String, ParseIntError),
    /// Threads without a number.
    #[error("--threads has no number after it: give 1 to {MAX_THREADS}")]
    NoThreads,
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
    let (mut names, mut threads) = (Vec::new(), None);
    while let Some(argument) = arguments.next() {
        let given = match argument.as_str() {
            "-h" | "--help" => return Ok(Command::Help),
            "--threads" => arguments.next().ok_or(WrongArguments::NoThreads)?,
            other => match other.strip_prefix("--threads=") {
                Some(number) => number.to_owned(),
                None if other.starts_with('-') => return Err(WrongArguments::Option(argument)),
                None if names.len() == 2 => return Err(WrongArguments::TooMuch(argument)),
                None => {
                    names.push(argument);
                    continue;
                }
            },
        };
        if threads.is_some() {
            return Err(WrongArguments::TooMuch(format!("--threads {given}")));
        }
        threads = Some(number_of_threads(given)?);
    }
    let [kernel, class] = &names[..] else { return Err(WrongArguments::Missing) };
    Ok(Command::Run { kernel: kernel.parse()?, class: class.parse()?, threads })
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
        let run =
            |threads| Ok(Command::Run { kernel: Kernel::Cg, class: Class::S, threads: NonZeroUsize::new(threads) });
        assert_eq!(parsed("cg S"), run(0));
        assert_eq!(parsed("CG s --threads 3"), run(3));
        assert_eq!(parsed("--threads=1024 cg S"), run(MAX_THREADS));
        assert_eq!(parsed("cg --help"), Ok(Command::Help));
    }

    #[test]
    fn wrong_arguments_are_told_in_one_line() {
        let lines = [
            ("", "give a kernel and a class"),
            ("cg", "give a kernel and a class"),
            ("xx S", "no kernel xx"),
            ("cg Q", "no class Q"),
            ("cg S A", "A is too much"),
            ("cg S --threads", "--threads has no number"),
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
