//! Boot time of vincs against QEMU's microvm: kernel entry to the first byte that a command prints.
//!
//! The same kernel file, initramfs, command line and number of vCPUs on both sides, taking turns in one run. On this
//! machine where its KVM runs a kernel, else in one node of the testbed, where the program starts itself.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use vincs_benchmarks::boot::guest::{Form, KernelFiles};
use vincs_benchmarks::boot::report::{HEADING, Series};
use vincs_benchmarks::boot::vincs::Vincs;
use vincs_benchmarks::boot::{BootError, microvm};
use vincs_testbed::{Command, End, Sink, Testbed};

/// Most pairs: more only take time.
const MAX_PAIRS: u32 = 100;
/// Most vCPUs.
const MAX_VCPUS: i64 = 64;
/// How long the whole may take in the testbed: a hundred boots of a slow machine.
const TESTBED_TIME: Duration = Duration::from_secs(2 * 3600);

/// Measures the boot time of vincs against QEMU's microvm.
#[derive(Debug, Parser)]
#[command(name = "bench-boot")]
struct Cli {
    /// Counted pairs of boots, after one that is not counted
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PAIRS)))]
    pairs: u32,
    /// Numbers of vCPUs to boot with
    #[arg(long, value_name = "N,...", default_values_t = [1, 4], value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=MAX_VCPUS))]
    vcpus: Vec<u32>,
    /// Leave out the kernel's bzImage, which unpacks itself in the guest
    #[arg(long)]
    no_bzimage: bool,
    /// Measure on this machine, whatever its KVM is like
    #[arg(long)]
    here: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is there to be told when this fails.
            let _ = writeln!(io::stderr(), "bench-boot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Box<dyn Error>> {
    let work = tempfile::Builder::new().prefix("vincs-bench-").tempdir()?;
    let vincs = Vincs::new(&program()?, work.path());
    if cli.here {
        return measure(cli, &vincs, work.path());
    }
    let (native, why) = vincs.runs_here()?;
    if native {
        writeln!(io::stdout(), "on this machine's KVM: {why}")?;
        return measure(cli, &vincs, work.path());
    }
    writeln!(io::stdout(), "in the testbed, an emulated node: {why}")?;
    in_testbed()
}

/// vincs's release binary, beside this one or in cargo's release folder.
fn program() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?.with_file_name("vincs");
    if own.exists() {
        return Ok(own);
    }
    Ok(vincs_testbed::release_dir().map_or(own, |dir| dir.join("vincs")))
}

/// Runs this program in a node, with the same options.
fn in_testbed() -> Result<ExitCode, Box<dyn Error>> {
    let mut words = vec![std::env::current_exe()?.into_os_string()];
    words.extend(std::env::args_os().skip(1));
    words.push("--here".into());
    let testbed = Testbed { timeout: TESTBED_TIME, ..Testbed::default() };
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        let number = usize::try_from(signal).unwrap_or_default();
        signal_hook::flag::register_usize(signal, testbed.interrupt.clone(), number)?;
    }
    let output = testbed.run_with(&Command::Program(words), sink(&io::stdout())?, sink(&io::stderr())?, None)?;
    match output.end {
        End::Exited(status) => Ok(ExitCode::from(status)),
        End::Interrupted(signal) => Err(format!("ended by signal {signal}").into()),
        End::TimedOut => Err(format!("no end after {} s: take fewer --pairs", TESTBED_TIME.as_secs()).into()),
        End::NodeLost(why) => Err(format!("{why}; the node's console:\n{}", output.console_tail).into()),
    }
}

/// A stream of this program without the buffering of std's own handle.
fn sink(stream: &impl AsFd) -> io::Result<Sink> {
    Ok(Sink::Write(Box::new(File::from(stream.as_fd().try_clone_to_owned()?))))
}

/// All series, then the table.
fn measure(cli: &Cli, vincs: &Vincs, work: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let kernel = KernelFiles::find(work)?;
    let forms: &[Form] = if cli.no_bzimage { &[Form::Elf] } else { &[Form::Elf, Form::BzImage] };
    let mut table = vec![HEADING.to_owned()];
    for (form, vcpus) in forms.iter().flat_map(|form| cli.vcpus.iter().map(move |vcpus| (*form, *vcpus))) {
        table.extend(series(cli.pairs, vincs, &kernel, form, vcpus)?.lines());
    }
    writeln!(io::stdout(), "\n{}", table.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// One warm-up and then the counted pairs of one kernel form and number of vCPUs.
fn series(pairs: u32, vincs: &Vincs, kernel: &KernelFiles, form: Form, vcpus: u32) -> Result<Series, BootError> {
    let mut series = Series { form, vcpus, pairs: Vec::new(), exits: Vec::new() };
    for pair in 0..=pairs {
        let ours = vincs.boot(kernel, form, vcpus)?;
        let theirs = microvm::boot(&ours.guest)?;
        let name = if pair == 0 { "warm-up".to_owned() } else { format!("pair {pair} of {pairs}") };
        let (us, them) = (ours.boot.boot, theirs.boot);
        // Progress only: the table has it all.
        let _ = writeln!(io::stderr(), "{form}, {vcpus} vCPUs, {name}: vincs {us:.2} s, microvm {them:.2} s");
        series.exits = ours.exits;
        if pair > 0 {
            series.pairs.push((ours.boot, theirs));
        }
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("bench-boot").chain(words.iter().copied()))
    }

    #[test]
    fn options_have_the_documented_defaults_and_limits() {
        let cli = parse(&[]).unwrap();
        assert_eq!((cli.pairs, cli.vcpus, cli.no_bzimage, cli.here), (5, vec![1, 4], false, false));
        assert_eq!(parse(&["--vcpus", "2,64"]).unwrap().vcpus, [2, 64]);
        for bad in [["--pairs", "0"], ["--pairs", "101"], ["--vcpus", "0"], ["--vcpus", "65"]] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }
}
