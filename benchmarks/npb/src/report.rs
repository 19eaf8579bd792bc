//! What is printed: the results and the lines of the benchmarks' own reports.

use std::fmt;

use crate::class::Class;
use crate::kernel::{Kernel, Outcome};
use crate::team::ranks::{Costs, Sharing};

/// The report of one run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was run.
    pub kernel: Kernel,
    /// How large it was.
    pub class: Class,
    /// Members of the team.
    pub members: usize,
    /// What ranks' memory was and cost, if they were ranks.
    pub ranks: Option<(Sharing, Costs)>,
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
        let Self { kernel, class, members, ranks, outcome } = self;
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
        match ranks {
            None => writeln!(f, " Total threads   = {members:>24}")?,
            Some(_) => writeln!(f, " Total processes = {members:>24}")?,
        }
        writeln!(f, " Mop/s total     = {:>24.2}", self.rate())?;
        let each = if ranks.is_some() { "process" } else { "thread " };
        writeln!(f, " Mop/s/{each}   = {:>24.2}", self.rate() / *members as f64)?;
        writeln!(f, " Operation type  = {:>24}", outcome.operation)?;
        writeln!(f, " Verification    = {verification:>24}")?;
        writeln!(f, " Version         = {:>24}", env!("CARGO_PKG_VERSION"))?;
        if let Some((sharing, costs)) = ranks {
            writeln!(f, " Memory          = {sharing:>24}")?;
            writeln!(f, " Rank 0          = {costs}")?;
        }
        writeln!(f, "\n VERIFICATION {verification}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Size;

    fn report(size: Size, verified: bool, ranks: Option<(Sharing, Costs)>) -> String {
        let outcome = Outcome {
            size,
            iterations: 4,
            seconds: 0.5,
            million_operations: 300.0,
            operation: "floating point",
            verified,
            results: vec!["L2 norm 1".to_owned()],
        };
        Report { kernel: Kernel::Mg, class: Class::S, members: 2, ranks, outcome }.to_string()
    }

    #[test]
    fn the_lines_are_those_of_the_benchmarks() {
        let text = report(Size::Grid([32, 32, 128]), true, None);
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
        let text = report(Size::Count(7), false, None);
        assert!(text.contains("\n Verification    =             UNSUCCESSFUL\n"));
        assert!(text.ends_with("\n VERIFICATION UNSUCCESSFUL\n"));
        assert!(text.contains("\n Size            =                        7\n"));
    }

    #[test]
    fn ranks_tell_what_their_memory_cost() {
        let costs = Costs { messages: 5, bytes: 70, faults: 3, synchronising: 0.25 };
        let text = report(Size::Count(7), true, Some((Sharing::Relaxed, costs)));
        for line in [
            " Total processes =                        2",
            " Mop/s/process   =                   300.00",
            " Memory          =                  relaxed",
            " Rank 0          = 5 messages, 70 bytes, 3 faults, 0.250 s in synchronisation",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\nis not in\n{text}");
        }
    }
}
