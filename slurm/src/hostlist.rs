//! Slurm's short form of many nodes: `n[1-3,7],login` are n1, n2, n3, n7 and login (slurm.conf(5), NodeName).

/// Most nodes of a list; Slurm's own limit for a cluster.
pub const MAX_NODES: usize = 65_536;

/// Most digits of a node's number.
const MAX_DIGITS: usize = 18;

/// Why a text is no list of nodes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HostlistError {
    /// A name is missing, as in `n1,,n2`.
    #[error("a node's name is missing: a list of nodes is as in n[1-3,7],login")]
    Empty,
    /// Brackets are not in pairs, or one is in the other.
    #[error("brackets that are not in pairs: a list of nodes is as in n[1-3,7],login")]
    Brackets,
    /// What is in brackets is no number and no range of two.
    #[error("[{0}] is no list of numbers and ranges as in [1-3,7]")]
    Numbers(String),
    /// A character that no node's name has.
    #[error("no node's name has {0:?}")]
    Character(char),
    /// More nodes than a cluster has.
    #[error("more than {MAX_NODES} nodes")]
    Many,
}

/// The names of a list, in its order.
///
/// # Errors
/// [`HostlistError`] when it is none. Nothing larger than the list itself is built before it is known to fit.
pub fn expand(list: &str) -> Result<Vec<String>, HostlistError> {
    let mut names = Vec::new();
    for item in items(list)? {
        let expanded = expand_item(item)?;
        if names.len() + expanded.len() > MAX_NODES {
            return Err(HostlistError::Many);
        }
        names.extend(expanded);
    }
    Ok(names)
}

/// Splits at the commas that are outside of brackets.
fn items(list: &str) -> Result<Vec<&str>, HostlistError> {
    let mut items = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, character) in list.char_indices() {
        match character {
            '[' | ']' if inside == (character == '[') => return Err(HostlistError::Brackets),
            '[' | ']' => inside = !inside,
            ',' if !inside => {
                items.push(&list[start..at]);
                start = at + 1;
            }
            character if character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.' | ',') => {}
            character => return Err(HostlistError::Character(character)),
        }
    }
    if inside {
        return Err(HostlistError::Brackets);
    }
    items.push(&list[start..]);
    Ok(items)
}

/// One name, with as many pairs of brackets as there are; the last varies fastest.
fn expand_item(item: &str) -> Result<Vec<String>, HostlistError> {
    if item.is_empty() {
        return Err(HostlistError::Empty);
    }
    let mut names = vec![String::new()];
    let mut rest = item;
    while let Some((before, numbers, after)) = brackets(rest) {
        let numbers = expand_numbers(numbers)?;
        if names.len().saturating_mul(numbers.len()) > MAX_NODES {
            return Err(HostlistError::Many);
        }
        let each =
            |name: &String| -> Vec<String> { numbers.iter().map(|number| format!("{name}{before}{number}")).collect() };
        names = names.iter().flat_map(each).collect();
        rest = after;
    }
    names.iter_mut().for_each(|name| name.push_str(rest));
    Ok(names)
}

/// What is before, in and behind the first pair of brackets.
fn brackets(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('[')?;
    let (numbers, after) = rest.split_once(']')?;
    Some((before, numbers, after))
}

/// The numbers of `1-3,007`, with their leading zeros.
fn expand_numbers(text: &str) -> Result<Vec<String>, HostlistError> {
    let wrong = || HostlistError::Numbers(text.to_owned());
    let number = |digits: &str| match digits.len() <= MAX_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => digits.parse::<u64>().map_err(|_| wrong()),
        false => Err(wrong()),
    };
    let mut numbers = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (from, to) = (number(first)?, number(last)?);
        let count = to.checked_sub(from).ok_or_else(wrong)?;
        if count.saturating_add(numbers.len() as u64) >= MAX_NODES as u64 {
            return Err(HostlistError::Many);
        }
        let width = first.len();
        numbers.extend((from..=to).map(|number| format!("{number:0width$}")));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(list: &str) -> Vec<String> {
        expand(list).unwrap()
    }

    #[test]
    fn lists_are_expanded_as_slurm_means_them() {
        assert_eq!(names("n1"), ["n1"]);
        assert_eq!(names("n[1-3,7]"), ["n1", "n2", "n3", "n7"]);
        assert_eq!(names("n[08-11]"), ["n08", "n09", "n10", "n11"]);
        assert_eq!(names("login,n[2,1]-ib.site"), ["login", "n2-ib.site", "n1-ib.site"]);
        assert_eq!(names("r[1-2]n[1-2]"), ["r1n1", "r1n2", "r2n1", "r2n2"]);
        assert_eq!(names("n[1,1]"), ["n1", "n1"], "Slurm names a node as often as it has it");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for empty in ["", ",", "n1,", "n1,,n2"] {
            assert_eq!(expand(empty), Err(HostlistError::Empty), "{empty}");
        }
        for odd in ["n[1", "n1]", "n[1[2]]", "n[]1]", "n[1-2,3"] {
            assert_eq!(expand(odd), Err(HostlistError::Brackets), "{odd}");
        }
        for odd in ["", "a", "1-", "-1", "3-1", "1--2", "1,", "1-2-3", "1234567890123456789"] {
            assert_eq!(expand(&format!("n[{odd}]")), Err(HostlistError::Numbers(odd.into())), "{odd}");
        }
        assert_eq!(expand("n 1"), Err(HostlistError::Character(' ')));
        assert_eq!(expand("(null)"), Err(HostlistError::Character('(')));
    }

    #[test]
    fn there_are_as_many_nodes_as_a_cluster_has() {
        assert_eq!(names(&format!("n[1-{MAX_NODES}]")).len(), MAX_NODES);
        assert_eq!(names("n[1-256]m[1-256]").len(), MAX_NODES);
        for many in ["n[0-65536]", "n[1-65536],m", "n[1-65536,1]", "n[1-256]m[0-256]", "n[0-999999999999999999]"] {
            assert_eq!(expand(many), Err(HostlistError::Many), "{many}");
        }
        let brackets = "[0-9]".repeat(1000);
        assert_eq!(expand(&brackets), Err(HostlistError::Many));
    }

    /// The short form of these numbers, as Slurm makes it: ranges where numbers follow each other.
    fn short(prefix: &str, width: usize, numbers: &[u64]) -> String {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &number in numbers {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        let range = |&(first, last): &(u64, u64)| match first == last {
            true => format!("{first:0width$}"),
            false => format!("{first:0width$}-{last:0width$}"),
        };
        format!("{prefix}[{}]", ranges.iter().map(range).collect::<Vec<_>>().join(","))
    }

    proptest! {
        #[test]
        fn what_was_shortened_comes_back(
            groups in proptest::collection::vec(("[a-z]{1,3}", 1..5_usize, proptest::collection::btree_set(0..3000_u64, 1..50)), 1..4)
        ) {
            let mut expected = Vec::new();
            let mut lists = Vec::new();
            for (prefix, width, numbers) in &groups {
                let numbers: Vec<u64> = numbers.iter().copied().collect();
                expected.extend(numbers.iter().map(|number| format!("{prefix}{number:0width$}")));
                lists.push(short(prefix, *width, &numbers));
            }
            prop_assert_eq!(names(&lists.join(",")), expected);
        }

        #[test]
        fn any_text_is_a_list_within_the_limit_or_refused(text in "[n0-9,\\[\\]-]{0,24}") {
            if let Ok(names) = expand(&text) {
                prop_assert!(!names.is_empty() && names.len() <= MAX_NODES);
                prop_assert!(names.iter().all(|name| !name.is_empty() && !name.contains(['[', ']', ','])));
            }
        }

        #[test]
        fn any_characters_are_taken_or_refused(text in any::<String>()) {
            let _ = expand(&text);
        }
    }
}
