//! The command line as a list that ranks can compare.

use std::ffi::OsStr;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use crate::wireup::message::Argument;

/// Options in which ranks may differ: what is where on each host, and who leaves.
const OWN: [&str; 6] = ["rank", "ranks", "address_file", "net_if", "kvm", "grace"];

/// Most bytes of a value that are shown.
const MAX_SHOWN: usize = 200;

/// What the user has given, in the order of the options' definition, without what is a rank's own.
pub(crate) fn list(command: &Command, matches: &ArgMatches) -> Vec<Argument> {
    let mut list = Vec::new();
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        if OWN.contains(&id) || matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let name = argument.get_long().map_or_else(|| "CMD".to_owned(), |long| format!("--{long}"));
        let values = matches.get_raw(id).into_iter().flatten();
        list.extend(values.map(|value| Argument { name: name.clone(), value: shown(value), digest: digest(value) }));
    }
    list
}

/// A value as part of one line.
fn shown(value: &OsStr) -> String {
    let text: String = value.to_string_lossy().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end = (0..=MAX_SHOWN.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let (start, rest) = text.split_at(end);
    if rest.is_empty() { text } else { format!("{start}...") }
}

/// FNV-1a with 64 bits: tells values apart, and nobody here has a reason to forge one.
fn digest(value: &OsStr) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    value.as_encoded_bytes().iter().fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn given(arguments: &[&str]) -> Vec<Argument> {
        let command = Cli::command();
        let matches = command.clone().try_get_matches_from([&["vincs"], arguments].concat()).unwrap();
        list(&command, &matches)
    }

    fn texts(arguments: &[&str]) -> Vec<String> {
        given(arguments).iter().map(|argument| format!("{} {}", argument.name, argument.value)).collect()
    }

    #[test]
    fn what_the_user_gave_is_listed_without_defaults() {
        assert_eq!(texts(&["--", "true"]), ["CMD true"]);
        assert_eq!(
            texts(&["--append", "a", "--mem=1G", "--append", "b", "--", "ls", "--mem"]),
            ["--mem 1G", "--append a", "--append b", "CMD ls", "CMD --mem"]
        );
    }

    #[test]
    fn what_is_a_ranks_own_is_left_out() {
        assert_eq!(
            texts(&["--rank", "1", "--ranks", "2", "--address-file", "a", "--net-if", "lo", "--", "x"]),
            ["CMD x"]
        );
    }

    #[test]
    fn every_option_of_a_rank_is_one() {
        let command = Cli::command();
        let ids: Vec<&str> = command.get_arguments().map(|argument| argument.get_id().as_str()).collect();
        assert!(OWN.iter().all(|own| ids.contains(own)), "{ids:?}");
    }

    #[test]
    fn a_long_value_is_cut_at_its_edge_and_told_apart_by_its_digest() {
        let long = "é".repeat(MAX_SHOWN / 2);
        assert_eq!(given(&["--", &long])[0].value, long);
        let [one, other] = ["a", "b"].map(|end| given(&["--", &format!("{long}{end}")]).remove(0));
        assert_eq!((one.value.clone(), one.value.len()), (other.value.clone(), MAX_SHOWN + 3));
        assert_ne!(one.digest, other.digest);
        assert_eq!(given(&["--", "two\nlines"])[0].value, "two lines");
        assert_ne!(given(&["--", "two\nlines"]), given(&["--", "two lines"]));
    }

    #[test]
    fn the_digest_is_fnv_1a() {
        assert_eq!((digest(OsStr::new("")), digest(OsStr::new("a"))), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
    }
}
