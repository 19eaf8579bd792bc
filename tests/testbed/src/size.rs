//! Memory sizes as people write them.

/// Why a size was not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a whole number, or an unknown suffix.
    #[error("'{0}' is not a size: write a whole number with suffix K, M, G or T (powers of 1024), such as 4G")]
    Malformed(String),
    /// More than 64 bits hold.
    #[error("'{0}' is larger than any machine's memory")]
    Overflow(String),
}

/// Parses `4G`, `512M`, `1048576` into bytes. Suffixes are powers of 1024 and may be in lower case.
///
/// # Errors
/// [`SizeError`] names the text that was given and what is expected.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        _ => return Err(SizeError::Malformed(text.to_owned())),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(SizeError::Malformed(text.to_owned()));
    }
    let overflow = || SizeError::Overflow(text.to_owned());
    digits.parse::<u64>().map_err(|_| overflow())?.checked_mul(1 << shift).ok_or_else(overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        assert_eq!(parse_size("7"), Ok(7));
        assert_eq!(parse_size("2k"), Ok(2048));
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("4G"), Ok(4 << 30));
        assert_eq!(parse_size("1T"), Ok(1 << 40));
    }

    #[test]
    fn rejects_what_is_no_size() {
        for text in ["", "G", "4X", "4GB", "-1", "1.5G", "+4", "4 G", "4é"] {
            assert_eq!(parse_size(text), Err(SizeError::Malformed(text.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn rejects_more_than_64_bits() {
        assert_eq!(parse_size("16777215T"), Ok(16_777_215 << 40));
        assert_eq!(parse_size("16777216T"), Err(SizeError::Overflow("16777216T".to_owned())));
        assert_eq!(parse_size("18446744073709551616"), Err(SizeError::Overflow("18446744073709551616".to_owned())));
    }
}
