//! In what ranks differ that have to be alike.

use crate::wireup::message::{Argument, Hello, Introduction, VERSION};

/// Why a rank cannot be one of rank 0's machine by its introduction; what follows it is not read then.
pub(crate) fn of_introductions(zero: &Introduction, other: &Introduction) -> Option<String> {
    let who = who(other);
    if other.vincs != zero.vincs {
        let (theirs, ours) = (&other.vincs, &zero.vincs);
        return Some(format!(
            "{who} runs vincs {theirs}, rank 0 on {} vincs {ours}: use the same everywhere",
            zero.host
        ));
    }
    if other.version != VERSION {
        let theirs = other.version;
        return Some(format!(
            "{who} speaks version {theirs} of the wire-up, rank 0 version {VERSION}: use the same vincs"
        ));
    }
    (other.ranks != zero.ranks).then(|| {
        format!(
            "{who} was started as one of {} ranks, rank 0 as one of {}: start them together",
            other.ranks, zero.ranks
        )
    })
}

/// Why a rank cannot be one of rank 0's machine.
pub(crate) fn of_hellos(zero: &Hello, introduction: &Introduction, other: &Hello) -> Option<String> {
    let who = who(introduction);
    if let Some(problem) = &other.problem {
        return Some(format!("{who}: {problem}"));
    }
    if other.protocols != zero.protocols {
        let (theirs, ours) = (versions(&other.protocols), versions(&zero.protocols));
        return Some(format!("{who} speaks {theirs}, rank 0 speaks {ours}: use the same vincs everywhere"));
    }
    if let Some(difference) = of_arguments(&zero.arguments, &other.arguments) {
        return Some(format!("{who} {difference}: start all ranks with the same arguments"));
    }
    let difference = zero.features.as_ref()?.difference(other.features.as_ref()?)?;
    Some(format!("{who} has another processor than rank 0: {difference}; use hosts of one kind"))
}

/// Why a rank cannot join rank 0's machine, which runs. What it was started with does not matter.
pub(crate) fn of_joiner(zero: &Hello, introduction: &Introduction, other: &Hello) -> Option<String> {
    let ours = env!("CARGO_PKG_VERSION");
    if introduction.vincs != ours {
        let theirs = &introduction.vincs;
        return Some(format!("the machine runs vincs {ours}, this host vincs {theirs}: use the same everywhere"));
    }
    if introduction.version != VERSION {
        let theirs = introduction.version;
        return Some(format!(
            "the machine speaks version {VERSION} of the wire-up, this host version {theirs}: use the same vincs"
        ));
    }
    if other.protocols != zero.protocols {
        let (theirs, ours) = (versions(&other.protocols), versions(&zero.protocols));
        return Some(format!("the machine speaks {ours}, this host {theirs}: use the same vincs everywhere"));
    }
    let difference = zero.features.as_ref()?.difference(other.features.as_ref()?)?;
    Some(format!("this host has another processor than rank 0's: {difference}; use hosts of one kind"))
}

/// A rank as messages name it.
pub(crate) fn who(introduction: &Introduction) -> String {
    format!("rank {} on {}", introduction.rank, introduction.host)
}

fn versions(protocols: &[(String, u32)]) -> String {
    let words: Vec<String> = protocols.iter().map(|(name, version)| format!("{name} {version}")).collect();
    words.join(", ")
}

/// The first argument in which two command lines differ, as in `has --mem 2G where rank 0 has --mem 1G`.
fn of_arguments(zero: &[Argument], other: &[Argument]) -> Option<String> {
    let longest = zero.len().max(other.len());
    let (theirs, ours) = (0..longest).map(|n| (other.get(n), zero.get(n))).find(|(theirs, ours)| theirs != ours)?;
    Some(match (theirs, ours) {
        (Some(theirs), Some(ours)) => format!("has {} where rank 0 has {}", shown(theirs), shown(ours)),
        (Some(theirs), None) => format!("has {}, which rank 0 has not", shown(theirs)),
        (None, Some(ours)) => format!("has no {}, which rank 0 has", shown(ours)),
        (None, None) => return None,
    })
}

fn shown(argument: &Argument) -> String {
    if argument.value.is_empty() { argument.name.clone() } else { format!("{} {}", argument.name, argument.value) }
}

#[cfg(test)]
mod tests {
    use vincs_vmm::cluster::Features;

    use super::*;
    use crate::wireup::message::JOINS;

    fn introduction(rank: u32) -> Introduction {
        Introduction { version: VERSION, rank, ranks: 4, host: format!("n{rank}"), vincs: "0.1.0".into() }
    }

    fn argument(name: &str, value: &str) -> Argument {
        Argument { name: name.into(), value: value.into(), digest: value.len() as u64 }
    }

    fn hello() -> Hello {
        Hello {
            protocols: vec![("coherence".into(), 1)],
            arguments: vec![argument("--mem", "1G"), argument("CMD", "make")],
            features: Some(Features { cpuid: Vec::new(), msrs: vec![16], xsave_bytes: 576, tsc_khz: 2_000_000 }),
            ..Hello::default()
        }
    }

    fn line(change: impl FnOnce(&mut Hello)) -> String {
        let mut other = hello();
        change(&mut other);
        of_hellos(&hello(), &introduction(3), &other).unwrap_or_default()
    }

    #[test]
    fn equal_ranks_do_not_differ() {
        assert_eq!(of_introductions(&introduction(0), &introduction(3)), None);
        assert_eq!(line(|_| {}), "");
        assert_eq!(line(|hello| hello.boot_id = "another host".into()), "");
        assert_eq!(line(|hello| hello.memory = 5), "");
    }

    #[test]
    fn every_difference_names_rank_host_and_both_values() {
        let mut other = introduction(2);
        other.vincs = "9.9.9".into();
        let text = of_introductions(&introduction(0), &other).unwrap();
        assert!(text.starts_with("rank 2 on n2 ") && text.contains("9.9.9") && text.contains("0.1.0"), "{text}");
        let text = of_introductions(&introduction(0), &Introduction { version: 9, ..introduction(2) }).unwrap();
        assert!(
            text.starts_with("rank 2 on n2 ")
                && text.contains("version 9")
                && text.contains(&format!("version {VERSION}")),
            "{text}"
        );
        let text = of_introductions(&introduction(0), &Introduction { ranks: 9, ..introduction(2) }).unwrap();
        assert!(text.starts_with("rank 2 on n2 ") && text.contains("of 9 ranks") && text.contains("of 4"), "{text}");
        for (text, words) in [
            (line(|hello| hello.problem = Some("no KVM".into())), ["no KVM", ""]),
            (line(|hello| hello.protocols[0].1 = 2), ["coherence 2", "coherence 1"]),
            (line(|hello| hello.arguments[0] = argument("--mem", "16G")), ["has --mem 16G", "rank 0 has --mem 1G"]),
            (line(|hello| hello.arguments.push(argument("CMD", "-j"))), ["has CMD -j,", "rank 0 has not"]),
            (line(|hello| drop(hello.arguments.pop())), ["has no CMD make,", "which rank 0 has"]),
            (line(|hello| hello.features.as_mut().unwrap().msrs.clear()), ["another processor", "MSR 0x10"]),
        ] {
            assert!(text.starts_with("rank 3 on n3") && words.iter().all(|word| text.contains(word)), "{text}");
            assert!(!text.contains('\n'));
        }
    }

    #[test]
    fn a_rank_that_joins_has_to_be_like_rank_0_but_for_its_arguments() {
        let vincs = env!("CARGO_PKG_VERSION").to_owned();
        let joins = Introduction { rank: JOINS, ranks: JOINS, vincs, ..introduction(1) };
        let refused = |introduction: &Introduction, change: fn(&mut Hello)| {
            let mut other = hello();
            change(&mut other);
            of_joiner(&hello(), introduction, &other).unwrap_or_default()
        };
        assert!(joins.joins() && !introduction(1).joins());
        assert_eq!(refused(&joins, |hello| hello.arguments.clear()), "");
        let old = Introduction { vincs: "0.0.1".into(), ..joins.clone() };
        assert!(refused(&old, |_| {}).contains("this host vincs 0.0.1"));
        let other = Introduction { version: 9, ..joins.clone() };
        assert!(refused(&other, |_| {}).contains("this host version 9"));
        assert!(refused(&joins, |hello| hello.protocols[0].1 = 7).contains("this host coherence 7"));
        assert!(refused(&joins, |hello| hello.features.as_mut().unwrap().msrs.clear()).contains("MSR 0x10"));
    }

    #[test]
    fn an_argument_that_differs_only_where_it_was_cut_differs() {
        let text = line(|hello| hello.arguments[1].digest = 99);
        assert!(text.contains("has CMD make where rank 0 has CMD make"), "{text}");
    }
}
