//! Variables of an environment, and how they are read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::AllocationError;

/// Environment variables by name.
pub type Environment = BTreeMap<OsString, OsString>;

/// Whether a variable is set.
pub(crate) fn is_set(environment: &Environment, variable: &str) -> bool {
    environment.contains_key(OsStr::new(variable))
}

/// A variable as text. What is not UTF-8 keeps its place, as no number or name has it.
pub(crate) fn text(environment: &Environment, variable: &str) -> Option<String> {
    environment.get(OsStr::new(variable)).map(|value| value.to_string_lossy().into_owned())
}

/// A number that is set; nothing when it is not.
///
/// # Errors
/// [`AllocationError::NoNumber`] for anything but a decimal number of the type.
pub(crate) fn number<T: std::str::FromStr>(
    environment: &Environment,
    variable: &'static str,
) -> Result<Option<T>, AllocationError> {
    let Some(value) = text(environment, variable) else { return Ok(None) };
    // The sign that Rust would take as well is none of a launcher's.
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(number) if digits => Ok(Some(number)),
        Ok(_) | Err(_) => Err(AllocationError::NoNumber { variable, value }),
    }
}
