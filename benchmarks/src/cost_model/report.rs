//! The model as tables.

use std::fmt::Write;

use vincs_coherence::id::MAX_RANKS;

use super::closed_form::Fault;
use super::inputs::{Inputs, LOOPBACK, NDR};
use super::simulated::{Failure, alone, loaded};
use super::throughput::{PROCESSORS, SHARDS, throughput};
use crate::ratio;

/// Numbers of ranks that are told.
const RANKS: [u64; 4] = [8, 64, 256, 1024];

/// Those that the simulator can take.
const SIMULATED: [u16; 2] = [8, 64];

/// Medians of docs/performance.md ("Memory that is spread over ranks") in nanoseconds, and the faults that they are of. The model's `service` is taken
/// from the first, so that only the others check anything.
const MEASURED: [(&str, Fault, u64); 4] = [
    ("cold read miss (`service` is from here)", Fault::ReadByMessage, 30_500),
    ("re-read after remote write", Fault::ReadByMessage, 30_800),
    ("write upgrade, 1 sharer", Fault::HomeWrite { sharers: 1 }, 31_200),
    ("write upgrade, 7 sharers", Fault::HomeWrite { sharers: 7 }, 145_000),
];

/// The kinds that are told for a machine of so many ranks.
fn kinds(ranks: u64) -> [Fault; 8] {
    let all = ranks - 2;
    [
        Fault::CleanReadOneSided,
        Fault::ReadByMessage,
        Fault::Upgrade { sharers: 0 },
        Fault::Write { sharers: 0 },
        Fault::Write { sharers: 1 },
        Fault::Write { sharers: 3 },
        Fault::Write { sharers: all },
        Fault::Recall,
    ]
}

/// Nanoseconds as microseconds.
fn microseconds(time: u64) -> f64 {
    ratio(time, 1000)
}

/// Per second as thousands per second.
fn thousands(count: u64) -> String {
    format!("{:.1}", ratio(count, 1000))
}

fn inputs(out: &mut String, inputs: &Inputs) -> std::fmt::Result {
    let Inputs { name, fault, service, message, page, switch, hash_and_copy, .. } = inputs;
    let times = [fault, service, message, page, switch, hash_and_copy].map(|time| microseconds(*time));
    write!(out, "| {name} |")?;
    times.iter().try_for_each(|time| write!(out, " {time:.2} |"))?;
    writeln!(out)
}

/// The whole report.
///
/// # Errors
/// The protocol broke a rule in the simulator.
pub fn report() -> Result<String, Failure> {
    let mut out = String::new();
    writeln!(
        out,
        "| inputs in µs | fault | service | short message, one way | a page more | a switch | hash and copy |\n|---|---|---|---|---|---|---|"
    )?;
    inputs(&mut out, &NDR)?;
    inputs(&mut out, &LOOPBACK)?;
    writeln!(
        out,
        "\n{}: a fault alone, and thousands of faults per second with {PROCESSORS} processors and {SHARDS} shards a rank; more than {MAX_RANKS} ranks are beyond this version\n",
        NDR.name
    )?;
    writeln!(out, "| ranks | fault | µs | of a home | of a rank | of the machine |\n|---|---|---|---|---|---|")?;
    for ranks in RANKS {
        for kind in kinds(ranks) {
            let time = microseconds(kind.latency(&NDR, ranks));
            let can = throughput(kind, &NDR, ranks);
            let [home, rank, machine] = [can.home, can.rank, can.machine].map(thousands);
            writeln!(out, "| {ranks} | {kind} | {time:.1} | {home} | {rank} | {machine} |")?;
        }
    }
    writeln!(out, "\n| simulated | ranks | µs | closed form | ratio |\n|---|---|---|---|---|")?;
    for ranks in SIMULATED {
        for kind in kinds(ranks.into()) {
            let Some(time) = alone(kind, &NDR, ranks)? else { continue };
            let predicted = kind.latency(&NDR, ranks.into());
            let (time, predicted, ratio) = (microseconds(time), microseconds(predicted), ratio(time, predicted));
            writeln!(out, "| {kind} | {ranks} | {time:.1} | {predicted:.1} | {ratio:.2} |")?;
        }
        let kinds = [("reads", Fault::ReadByMessage), ("writes", Fault::Write { sharers: 0 })];
        for ((name, kind), under_load) in kinds.into_iter().zip(loaded(&NDR, ranks)?) {
            let predicted = kind.latency(&NDR, ranks.into());
            let [median, longest] = [under_load.median, under_load.longest].map(microseconds);
            let (alone, ratio) = (microseconds(predicted), ratio(under_load.median, predicted));
            let count = under_load.count;
            writeln!(
                out,
                "| {name} under load: median of {count}, the longest {longest:.1} | {ranks} | {median:.1} | {alone:.1} alone | {ratio:.2} |"
            )?;
        }
    }
    writeln!(out, "\n| {} | predicted (µs) | measured (µs) | ratio |\n|---|---|---|---|", LOOPBACK.name)?;
    for (what, kind, measured) in MEASURED {
        let predicted = kind.latency(&LOOPBACK, 8);
        let (ratio, predicted, measured) =
            (ratio(predicted, measured), microseconds(predicted), microseconds(measured));
        writeln!(out, "| {what} | {predicted:.1} | {measured:.1} | {ratio:.2} |")?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was not used to make the model is predicted within a fifth.
    #[test]
    fn the_model_predicts_what_was_measured_over_tcp() {
        for (what, kind, measured) in MEASURED {
            let apart = kind.latency(&LOOPBACK, 8).abs_diff(measured);
            assert!(apart * 5 < measured, "{what}: {} ns predicted, {measured} measured", kind.latency(&LOOPBACK, 8));
        }
    }

    #[test]
    fn the_report_is_the_same_each_time_and_in_the_document() {
        let [one, other] = [report().unwrap(), report().unwrap()];
        assert_eq!(one, other);
        let document = include_str!("../../../docs/cost-model.md");
        let missing: Vec<_> = one.lines().filter(|line| line.starts_with('|') && !document.contains(line)).collect();
        assert!(missing.is_empty(), "not in docs/cost-model.md:\n{}", missing.join("\n"));
    }
}
