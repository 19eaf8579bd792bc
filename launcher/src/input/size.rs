//! Sizes as the user writes them: `512M`, `2G`, `1073741824`.

use std::fmt;

const SUFFIXES: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];

/// Why a text is not a size.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum SizeError {
    #[error("unknown suffix `{0}`: use K, M, G or T (powers of 1024), or none for bytes")]
    UnknownSuffix(String),
    #[error("no number: write a size like 512M, 2G or 1073741824")]
    NoNumber,
    #[error("more bytes than 64 bits can count")]
    TooLarge,
}

/// Reads a size in bytes: digits, then nothing or one of K, M, G, T (powers of 1024, any case).
///
/// # Errors
/// [`SizeError`] for anything else.
pub(crate) fn parse_size(text: &str) -> Result<u64, SizeError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::NoNumber);
    }
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    let mut letters = suffix.chars();
    let shift = match (letters.next(), letters.next()) {
        (None, _) => 0,
        (Some(letter), None) => SUFFIXES
            .iter()
            .find(|(known, _)| *known == letter.to_ascii_uppercase())
            .map(|(_, shift)| *shift)
            .ok_or_else(|| SizeError::UnknownSuffix(suffix.into()))?,
        (Some(_), Some(_)) => return Err(SizeError::UnknownSuffix(suffix.into())),
    };
    number.checked_mul(1 << shift).ok_or(SizeError::TooLarge)
}

/// A number of bytes, shown in the largest unit that leaves no remainder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SUFFIXES.iter().rev().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match unit {
            Some((letter, shift)) => write!(f, "{}{letter}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_each_suffix() {
        let expected = [
            ("7", 7),
            ("0", 0),
            ("512M", 512 << 20),
            ("2g", 2 << 30),
            ("3T", 3 << 40),
            ("1K", 1024),
            ("1073741824", 1 << 30),
        ];
        for (text, bytes) in expected {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn bad_sizes_say_what_is_wrong() {
        for suffix in ["Q", "MB", "MiB", " M", ".5G", "é"] {
            assert_eq!(parse_size(&format!("5{suffix}")), Err(SizeError::UnknownSuffix(suffix.into())));
        }
        for text in ["", "M", "-1", "G5"] {
            assert_eq!(parse_size(text), Err(SizeError::NoNumber), "{text}");
        }
    }

    #[test]
    fn the_largest_size_is_at_64_bits() {
        assert_eq!(parse_size("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(parse_size("18446744073709551616"), Err(SizeError::TooLarge));
        assert_eq!(parse_size("16777215T"), Ok(16_777_215 << 40));
        assert_eq!(parse_size("16777216T"), Err(SizeError::TooLarge));
    }

    #[test]
    fn bytes_are_shown_without_loss() {
        for (bytes, text) in [(0, "0"), (1023, "1023"), (1 << 20, "1M"), (1536 << 20, "1536M"), (100 << 40, "100T")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
