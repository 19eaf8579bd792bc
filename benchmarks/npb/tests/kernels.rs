//! Every kernel against the published values, on teams that divide the work evenly and on some that do not.

use std::error::Error;

use vincs_npb::class::Class;
use vincs_npb::kernel::{Kernel, Outcome};
use vincs_npb::team::threads;

fn run(kernel: Kernel, class: Class, members: usize) -> Result<Outcome, Box<dyn Error>> {
    Ok(threads::run(members, |team| kernel.run(team, class))??)
}

fn is_verified(kernel: Kernel, class: Class, members: usize) -> Result<(), Box<dyn Error>> {
    let outcome = run(kernel, class, members)?;
    let results = outcome.results.join("\n");
    assert!(outcome.verified, "{} {class} on {members} threads:\n{results}", kernel.name());
    assert!(outcome.seconds > 0.0 && outcome.million_operations > 0.0);
    Ok(())
}

/// The small class, also where grids have fewer planes than the team has members; and the next class.
fn small_classes_are_verified(kernel: Kernel) -> Result<(), Box<dyn Error>> {
    for members in [1, 2, 3, 5] {
        is_verified(kernel, Class::S, members)?;
    }
    is_verified(kernel, Class::W, 2)
}

#[test]
fn ep_is_verified() -> Result<(), Box<dyn Error>> {
    small_classes_are_verified(Kernel::Ep)
}

#[test]
fn is_is_verified() -> Result<(), Box<dyn Error>> {
    small_classes_are_verified(Kernel::Is)
}

#[test]
fn cg_is_verified() -> Result<(), Box<dyn Error>> {
    small_classes_are_verified(Kernel::Cg)
}

#[test]
fn mg_is_verified() -> Result<(), Box<dyn Error>> {
    small_classes_are_verified(Kernel::Mg)
}

#[test]
fn ft_is_verified() -> Result<(), Box<dyn Error>> {
    small_classes_are_verified(Kernel::Ft)
}

#[test]
fn a_run_is_the_same_each_time() {
    for kernel in [Kernel::Cg, Kernel::Mg, Kernel::Ft] {
        let [first, second] = [run(kernel, Class::S, 3), run(kernel, Class::S, 3)];
        assert_eq!(first.unwrap().results, second.unwrap().results, "{}", kernel.name());
    }
}
