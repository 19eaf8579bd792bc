//! Which kernels there are, and what one gives when it has run.

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use crate::class::Class;
use crate::team::{NoMemory, Team};
use crate::{bt, cg, ep, ft, is, lu, mg, sp};

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Embarrassingly parallel: no communication.
    Ep,
    /// Integer sort: all to all, of small pieces.
    Is,
    /// Conjugate gradient: irregular reads, many reductions.
    Cg,
    /// Multigrid: neighbours, on large and small grids.
    Mg,
    /// Fourier transform: all to all, of large pieces.
    Ft,
    /// Block tridiagonal systems: lines along one axis after the other.
    Bt,
    /// Lower and upper triangular sweeps: many small steps, one member behind the other.
    Lu,
    /// Scalar pentadiagonal systems: lines along one axis after the other, with less to compute than BT.
    Sp,
}

impl Kernel {
    /// All.
    pub const ALL: [Self; 8] = [Self::Ep, Self::Is, Self::Cg, Self::Mg, Self::Ft, Self::Bt, Self::Lu, Self::Sp];

    /// Its name as it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ep => "EP",
            Self::Is => "IS",
            Self::Cg => "CG",
            Self::Mg => "MG",
            Self::Ft => "FT",
            Self::Bt => "BT",
            Self::Lu => "LU",
            Self::Sp => "SP",
        }
    }

    /// Bytes that each rank of a team has to give to arrays, so that one rank alone has room for all. Memory is only taken where it is touched.
    #[must_use]
    pub fn room(self, class: Class) -> usize {
        const MIB: usize = 1 << 20;
        let arrays = class.pick([64, 256, 1024, 4096]) * MIB;
        // Nothing of it is in arrays.
        if self == Self::Ep { MIB } else { arrays }
    }

    /// Runs it as a member of `team`, as all members do. All get the same outcome but for the time.
    ///
    /// # Errors
    ///
    /// No memory for its arrays.
    pub fn run(self, team: &dyn Team, class: Class) -> Result<Outcome, NoMemory> {
        match self {
            Self::Ep => Ok(ep::run(team, class)),
            Self::Is => is::run(team, class),
            Self::Cg => cg::run(team, class),
            Self::Mg => mg::run(team, class),
            Self::Ft => ft::run(team, class),
            Self::Bt => bt::run(team, class),
            Self::Lu => lu::run(team, class),
            Self::Sp => sp::run(team, class),
        }
    }
}

/// There is no such kernel.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no kernel {0}: there are ep, is, cg, mg, ft, bt, lu and sp")]
pub struct NoSuchKernel(String);

impl FromStr for Kernel {
    type Err = NoSuchKernel;

    /// The name in large or small letters.
    fn from_str(text: &str) -> Result<Self, NoSuchKernel> {
        let found = Self::ALL.into_iter().find(|kernel| text.eq_ignore_ascii_case(kernel.name()));
        found.ok_or_else(|| NoSuchKernel(text.to_owned()))
    }
}

/// What a kernel has computed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The size of the problem.
    pub size: Size,
    /// Iterations of its outer loop.
    pub iterations: usize,
    /// Time of the timed part.
    pub seconds: f64,
    /// Operations of the timed part in millions, by the benchmark's own formula.
    pub million_operations: f64,
    /// What is counted.
    pub operation: &'static str,
    /// Whether the results are the published ones.
    pub verified: bool,
    /// The results, line by line.
    pub results: Vec<String>,
}

/// The size of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many things.
    Count(usize),
    /// A grid.
    Grid([usize; 3]),
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => f.pad(&count.to_string()),
            Self::Grid([x, y, z]) => f.pad(&format!("{x:4}x{y:4}x{z:4}")),
        }
    }
}

/// A computed value beside the published one.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// What the value is called.
    pub name: &'static str,
    /// What was computed.
    pub computed: f64,
    /// What is published.
    pub published: f64,
    /// How far it may be off, as a part of the published value.
    pub tolerance: f64,
}

impl Check {
    /// How far it is off, as a part of the published value.
    #[must_use]
    pub fn error(&self) -> f64 {
        ((self.computed - self.published) / self.published).abs()
    }

    /// Whether it is near enough. A value that is no number is not.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.error() <= self.tolerance
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, computed, published, .. } = self;
        write!(f, "{name:<16} {computed:22.13e}   published {published:22.13e}   error {:9.2e}", self.error())
    }
}

/// Does the timed part: when all members are there, until all are through. Gives what it gave, and how many seconds it took.
pub fn timed<R>(team: &dyn Team, part: impl FnOnce() -> R) -> (R, f64) {
    team.barrier();
    let start = Instant::now();
    let result = part();
    team.barrier();
    (result, start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_name_kernels() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.name().parse(), Ok(kernel));
            assert_eq!(kernel.name().to_lowercase().parse(), Ok(kernel));
            let told = NoSuchKernel(String::new()).to_string();
            assert!(told.contains(&kernel.name().to_lowercase()), "{told}");
        }
        assert!("c".parse::<Kernel>().is_err());
    }

    #[test]
    fn a_value_is_as_near_as_its_tolerance_or_wrong() {
        let check = |computed| Check { name: "x", computed, published: -2.0, tolerance: 0.25 }.passed();
        assert!(check(-2.0) && check(-2.5) && check(-1.5));
        assert!(!check(-2.51) && !check(2.0) && !check(f64::NAN) && !check(f64::INFINITY));
    }
}
