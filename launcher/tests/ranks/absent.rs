//! Ranks that MPI is to bring together, of which one is not there: the lowest that is there says so, and stays until that has been heard. The helper that
//! takes part in the MPI job is one here that waits for ever, as the real one does until all ranks have started theirs.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// What all of these lines name.
const WAYS_OUT: [&str; 3] = ["vincs-mpi", "--wireup-timeout", "--address-file"];

impl Place {
    /// Puts vincs beside a helper that waits.
    fn waiting_helper(&self) -> PathBuf {
        let alone = self.path("vincs");
        fs::copy(env!("CARGO_BIN_EXE_vincs"), &alone).unwrap();
        let helper = self.path("vincs-mpi");
        fs::write(&helper, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        alone
    }

    /// A rank that MPI is to bring together with the others, within a second.
    fn mpi_rank(&self, program: &Path, rank: &str, ranks: &str) -> Rank {
        let variables = [("OMPI_COMM_WORLD_RANK", rank), ("OMPI_COMM_WORLD_SIZE", ranks)];
        let options = ["--net-if", "lo", "--wireup-timeout", IMPATIENT];
        self.spawn(program, &[&options[..], &GOOD].concat(), &variables)
    }
}

/// The first of these has ended with its line, and the other one is there still.
fn only_the_first_speaks(first: Rank, mut second: Rank, named: &str) {
    first.refuses(&[&[named, &host()], &WAYS_OUT[..]].concat());
    assert!(!second.has_ended(), "it would have spoken too");
}

#[test]
fn rank_1_without_rank_0_says_so_itself() {
    let place = Place::new();
    place.mpi_rank(&place.waiting_helper(), "1", "2").refuses(&[&["rank 1 on", &host()], &WAYS_OUT[..]].concat());
}

#[test]
fn rank_0_without_rank_1_says_so() {
    let place = Place::new();
    if !place.has_machine() {
        return;
    }
    place.mpi_rank(&place.waiting_helper(), "0", "2").refuses(&[&["rank 0 on", &host()], &WAYS_OUT[..]].concat());
}

#[test]
fn of_ranks_that_start_together_the_lowest_speaks() {
    let place = Place::new();
    if !place.has_machine() {
        return;
    }
    let vincs = place.waiting_helper();
    for [lower, higher] in [["1", "2"], ["0", "2"], ["0", "1"]] {
        let (second, first) = (place.mpi_rank(&vincs, higher, "3"), place.mpi_rank(&vincs, lower, "3"));
        only_the_first_speaks(first, second, &format!("rank {lower} on"));
    }
}

/// By the launcher that ends all ranks when one of them ends badly, which it does with that rank's line alone.
#[test]
fn under_mpirun_there_is_one_line_whoever_is_absent() {
    let place = Place::new();
    let vincs = place.waiting_helper();
    let version = Command::new("mpirun").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    if !place.has_machine() || !String::from_utf8_lossy(&version).contains("Open MPI") {
        eprintln!("skipped: there is no mpirun of Open MPI, whose options these are");
        return;
    }
    let rank = format!("-n 1 {} --net-if lo --wireup-timeout {IMPATIENT} {}", vincs.display(), GOOD.join(" "));
    let absent = "-n 1 sleep 1000";
    // Each rank's program, in the order of ranks; and which one speaks.
    for (ranks, speaker) in
        [([&rank, absent, &rank], 0), ([absent, rank.as_str(), rank.as_str()], 1), ([absent, absent, &rank], 2)]
    {
        let arguments = format!("--oversubscribe --bind-to none --mca btl self,tcp {}", ranks.join(" : "));
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let root = [("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")];
        let output = place.spawn(Path::new("mpirun"), &arguments, &root).end();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("vincs: ")).collect();
        assert_eq!((output.status.code(), lines.len()), (Some(2), 1), "{stderr}");
        assert!(lines[0].contains(&format!("rank {speaker} on {}", host())), "{stderr}");
    }
}

#[test]
fn a_rank_that_does_not_reach_rank_0_names_the_ways_out() {
    let place = Place::new();
    let Some(zero) = place.good_rank_0(PATIENT) else { return };
    let card = place.card();
    drop(zero);
    let dead = card.address().to_string();
    let one = place.rank_of("3", "1", "a", IMPATIENT, &GOOD);
    let mut two = place.rank_of("3", "2", "a", IMPATIENT, &GOOD);
    one.refuses(&["rank 1 on", &host(), &dead, "refused", "--net-if", "--address-file", "--wireup-timeout"]);
    assert!(!two.has_ended(), "it looks longer than rank 1");
    two.refuses(&["rank 2 on", &host(), &dead]);
}
