//! Sizes of problems.

use std::fmt;
use std::str::FromStr;

/// A size of a problem; what it means is each kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Sample: to try whether it works.
    S,
    /// Workstation.
    W,
    /// The smallest of the sizes for supercomputers (of 1994).
    A,
    /// The next.
    B,
}

impl Class {
    /// All, the smallest first.
    pub const ALL: [Self; 4] = [Self::S, Self::W, Self::A, Self::B];

    /// The class's letter.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::S => 'S',
            Self::W => 'W',
            Self::A => 'A',
            Self::B => 'B',
        }
    }

    /// That of four values which belongs to this class, of those for S, W, A and B.
    #[must_use]
    pub fn pick<T>(self, values: [T; 4]) -> T {
        let [s, w, a, b] = values;
        match self {
            Self::S => s,
            Self::W => w,
            Self::A => a,
            Self::B => b,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Write::write_char(f, self.letter())
    }
}

/// There is no such class.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no class {0}: there are S, W, A and B")]
pub struct NoSuchClass(String);

impl FromStr for Class {
    type Err = NoSuchClass;

    /// The letter, large or small.
    fn from_str(text: &str) -> Result<Self, NoSuchClass> {
        let found = Self::ALL.into_iter().find(|class| text.eq_ignore_ascii_case(&class.to_string()));
        found.ok_or_else(|| NoSuchClass(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_name_classes() {
        for (at, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class.to_string().parse(), Ok(class));
            assert_eq!(class.to_string().to_lowercase().parse(), Ok(class));
            assert_eq!(class.pick([0, 1, 2, 3]), at);
        }
        assert_eq!("T".parse::<Class>().unwrap_err().to_string(), "no class T: there are S, W, A and B");
        assert!("".parse::<Class>().is_err());
    }
}
