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

/// The small class, also where there are fewer planes and rows than the team has members.
fn small_class_is_verified(kernel: Kernel) -> Result<(), Box<dyn Error>> {
    [1, 2, 3, 13].into_iter().try_for_each(|members| is_verified(kernel, Class::S, members))
}

/// The small class and the next.
fn small_classes_are_verified(kernel: Kernel) -> Result<(), Box<dyn Error>> {
    small_class_is_verified(kernel)?;
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

// Their next class takes several times as long as that of all others.

#[test]
fn bt_is_verified() -> Result<(), Box<dyn Error>> {
    small_class_is_verified(Kernel::Bt)
}

#[test]
fn lu_is_verified() -> Result<(), Box<dyn Error>> {
    small_class_is_verified(Kernel::Lu)
}

#[test]
fn sp_is_verified() -> Result<(), Box<dyn Error>> {
    small_class_is_verified(Kernel::Sp)
}

#[test]
fn a_run_is_the_same_each_time() {
    for kernel in [Kernel::Cg, Kernel::Mg, Kernel::Ft, Kernel::Bt, Kernel::Lu, Kernel::Sp] {
        let [first, second] = [run(kernel, Class::S, 3), run(kernel, Class::S, 3)];
        assert_eq!(first.unwrap().results, second.unwrap().results, "{}", kernel.name());
    }
}
