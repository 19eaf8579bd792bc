//! What is printed: the results and the lines of the benchmarks' own reports.

use std::fmt;

use crate::class::Class;
use crate::kernel::{Kernel, Outcome};

/// The report of one run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was run.
    pub kernel: Kernel,
    /// How large it was.
    pub class: Class,
    /// Members of the team.
    pub threads: usize,
    /// What came out.
    pub outcome: Outcome,
}

impl Report {
    fn rate(&self) -> f64 {
        if self.outcome.seconds > 0.0 { self.outcome.million_operations / self.outcome.seconds } else { 0.0 }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, class, threads, outcome } = self;
        let name = kernel.name();
        writeln!(f, "\n\n NAS Parallel Benchmarks - {name} Benchmark (vincs-npb)\n")?;
        for line in &outcome.results {
            writeln!(f, " {line}")?;
        }
        let verification = if outcome.verified { "SUCCESSFUL" } else { "UNSUCCESSFUL" };
        writeln!(f, "\n\n {name} Benchmark Completed.")?;
        writeln!(f, " Class           = {:>24}", class.letter())?;
        writeln!(f, " Size            = {:>24}", outcome.size)?;
        writeln!(f, " Iterations      = {:>24}", outcome.iterations)?;
        writeln!(f, " Time in seconds = {:>24.2}", outcome.seconds)?;
        writeln!(f, " Total threads   = {threads:>24}")?;
        writeln!(f, " Mop/s total     = {:>24.2}", self.rate())?;
        writeln!(f, " Mop/s/thread    = {:>24.2}", self.rate() / *threads as f64)?;
        writeln!(f, " Operation type  = {:>24}", outcome.operation)?;
        writeln!(f, " Verification    = {verification:>24}")?;
        writeln!(f, " Version         = {:>24}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "\n VERIFICATION {verification}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Size;

    fn report(size: Size, verified: bool) -> String {
        let outcome = Outcome {
            size,
            iterations: 4,
            seconds: 0.5,
            million_operations: 300.0,
            operation: "floating point",
            verified,
            results: vec!["L2 norm 1".to_owned()],
        };
        Report { kernel: Kernel::Mg, class: Class::S, threads: 2, outcome }.to_string()
    }

    #[test]
    fn the_lines_are_those_of_the_benchmarks() {
        let text = report(Size::Grid([32, 32, 128]), true);
        for line in [
            " MG Benchmark Completed.",
            " Class           =                        S",
            " Size            =             32x  32x 128",
            " Iterations      =                        4",
            " Time in seconds =                     0.50",
            " Total threads   =                        2",
            " Mop/s total     =                   600.00",
            " Mop/s/thread    =                   300.00",
            " Operation type  =           floating point",
            " Verification    =               SUCCESSFUL",
            " L2 norm 1",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\nis not in\n{text}");
        }
        assert!(text.ends_with("\n VERIFICATION SUCCESSFUL\n"));
    }

    #[test]
    fn a_failure_is_told_as_one() {
        let text = report(Size::Count(7), false);
        assert!(text.contains("\n Verification    =             UNSUCCESSFUL\n"));
        assert!(text.ends_with("\n VERIFICATION UNSUCCESSFUL\n"));
        assert!(text.contains("\n Size            =                        7\n"));
    }
}
