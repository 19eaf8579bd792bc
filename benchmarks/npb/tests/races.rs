//! Two processes with relaxed memory in which races are looked for: a program that has some. Kernels, which have none, are in `processes.rs`.
//!
//! This is a program of its own, as a team's rank 0 starts the others by starting itself.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a program that is a test")]

use std::process::Command;

use vincs_npb::team::Team;
use vincs_npb::team::ranks::{self, Place, RANK_ARGUMENT, Sharing};

/// Has this program run the team.
const LEAD: &str = "--lead";

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some(RANK_ARGUMENT) => run(Place::follow().unwrap()),
        Some(LEAD) => run(Place::lead(2, &[]).unwrap()),
        _ => races_of_two_processes_are_told_on_standard_error_and_nothing_else(),
    }
}

fn run(place: Place) {
    ranks::run(place.looking_for_races(true), Sharing::Relaxed, 1 << 20, racy).unwrap();
}

/// In the second array both ranks write word 0 at once, each a neighbour of it, and word 3 in turn; in the third, word 513, which is homed at the other rank than word 0.
fn racy(team: &dyn Team) {
    let [_, second, third] = [0; 3].map(|_| team.array::<u64>(1024).unwrap());
    let member = team.member();
    let value = member as u64 + 1;
    for round in 0..3 {
        second.write(0..1)[0] = value + 10 * round;
        second.write(1 + member..2 + member)[0] = value;
        third.write(513..514)[0] = value + 10 * round;
        team.barrier();
        if member == 0 {
            second.write(3..4)[0] += 1;
        }
        team.barrier();
        if member == 1 {
            second.write(3..4)[0] += 1;
        }
        team.barrier();
    }
    assert_eq!(second.read(3..4)[0], 6);
}

fn races_of_two_processes_are_told_on_standard_error_and_nothing_else() {
    let output = Command::new(std::env::current_exe().unwrap()).arg(LEAD).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let lines: Vec<&str> = told.lines().collect();
    let [first, second, end] = lines[..] else { panic!("{told}") };
    let starts = ["byte 0 of array 1 (page ", "byte 4104 of array 2 (page "];
    for (line, place) in [first, second].into_iter().zip(starts) {
        let told = format!("npb: race: ranks 0 and 1 have both written {place}");
        assert!(line.starts_with(&told) && line.ends_with("with no lock or barrier between"), "{line}");
    }
    assert_eq!(end, "npb: races: 2 places");
}
