//! The guest kernel's command line (kernel documentation, admin-guide/kernel-parameters).

use std::ops::Range;

/// Options of every guest, each with its reason.
const ALWAYS: [(&str, &str); 5] = [
    ("console=ttyS0", "kernel messages go to the 16550 serial port, which vincs keeps the tail of"),
    ("panic=-1", "after a panic the kernel resets at once, and vincs sees the reset: no guessing by time"),
    ("reboot=acpi", "a reset goes through the reset register at once; the other ways Linux tries do not exist here"),
    (
        "pci=off",
        "there is no PCI bus, and the kernel would make thousands of port accesses to find that out, an exit each",
    ),
    ("tsc=reliable", "the TSC is the machine's synchronised clock: no watchdog on a second, slower one"),
];

/// Options of guests that are spread over ranks, each with its reason. What bounces is moved between ranks at every turn, at the
/// price of two messages and a fault each time.
const DISTRIBUTED: [(&str, &str); 11] = [
    ("numa_balancing=disable", "it unmaps pages to see who touches them, and moves what vincs has just moved"),
    (
        "transparent_hugepage=never",
        "a first touch would clear 512 pages, of which one was wanted, a fault for each few",
    ),
    (
        "init_on_alloc=0",
        "a page for a file would be fetched to be cleared here, then fetched by rank 0 to be filled, then fetched here",
    ),
    ("pti=off", "a second set of page tables for each process: what bounces most where page walks count as writes"),
    ("skew_tick=1", "the processors' timer ticks all at one moment go for the same pages at one moment"),
    ("apparmor=0", "the reference count of its one label is written at every fork, exec and open, on all processors"),
    ("nowatchdog", "a processor that waits for pages or for its host is no lockup; its timers wake idle processors"),
    ("rcupdate.rcu_cpu_stall_suppress=1", "the same for RCU, whose report would stop every processor on top"),
    ("swiotlb=noforce", "64 MiB of bounce buffers that no device here uses would be cleared at boot, page by page"),
    (
        "sysctl.vm.compaction_proactiveness=0",
        "a thread on each node would look twice a second whether memory is to be compacted, and wake an idle rank for it",
    ),
    (
        "sysctl.vm.stat_interval=3600",
        "every second, by default, a processor looks at the memory counters of all others and has them added up there",
    ),
];

/// Options for the processors of other ranks, each with its reason.
const REMOTE: [(&str, &str); 2] = [
    (
        "maxcpus=N",
        "they come up when the guest is set up: nothing that boot has left on them is to follow them to their ranks",
    ),
    (
        "nohz_full=N-M",
        "no ticks while they have nothing or one thing to do, no keeping of time, no RCU callbacks, no calls to balance the load",
    ),
];

/// Keeps a kernel that decompresses itself from choosing where it is then (KASLR), as the addresses in its System.map would be others.
const IN_PLACE: &str = "nokaslr";

/// Keeps all but errors off the console: each character is an exit to vincs, dear when nobody reads them.
const QUIET: &str = "quiet";

/// What the command line depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// Whether somebody reads the console.
    pub(crate) console_is_read: bool,
    /// The processors of ranks other than 0; empty if the guest is on one.
    pub(crate) remote: &'a Range<u32>,
    /// Whether vincs's own first program runs in the guest and brings those up.
    pub(crate) has_first_program: bool,
    /// Whether the kernel would move itself and its functions are to be named.
    pub(crate) stays_in_place: bool,
    /// What the user adds, last, so that it overrides.
    pub(crate) append: &'a [String],
}

/// The command line for this choice.
pub(crate) fn cmdline(choice: Choice<'_>) -> String {
    let always = ALWAYS.iter().map(|(option, _)| *option);
    let is_spread = !choice.remote.is_empty();
    let distributed = DISTRIBUTED.iter().filter(|_| is_spread).map(|(option, _)| *option);
    let remote = if is_spread { remote(choice) } else { Vec::new() };
    let in_place = choice.stays_in_place.then_some(IN_PLACE);
    let quiet = (!choice.console_is_read).then_some(QUIET);
    let append = choice.append.iter().map(String::as_str);
    always
        .chain(distributed)
        .chain(remote.iter().map(String::as_str))
        .chain(in_place)
        .chain(quiet)
        .chain(append)
        .collect::<Vec<_>>()
        .join(" ")
}

/// [`REMOTE`] for processors of other ranks, which there are.
fn remote(choice: Choice<'_>) -> Vec<String> {
    let Range { start, end } = choice.remote;
    let values = [choice.has_first_program.then(|| start.to_string()), Some(format!("{start}-{}", end - 1))];
    let names = REMOTE.iter().filter_map(|(option, _)| option.split('=').next());
    names.zip(values).filter_map(|(name, value)| Some(format!("{name}={}", value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that somebody reads the console of, on one rank.
    const PLAIN: Choice<'static> =
        Choice { console_is_read: true, remote: &(0..0), has_first_program: true, stays_in_place: false, append: &[] };

    #[test]
    fn a_console_that_nobody_reads_is_quiet() {
        let words = |console_is_read| cmdline(Choice { console_is_read, ..PLAIN });
        assert!(words(false).split(' ').any(|word| word == "quiet"));
        assert!(!words(true).split(' ').any(|word| word == "quiet"));
    }

    #[test]
    fn a_kernel_moves_itself_unless_it_is_to_stay() {
        let stays = |stays_in_place| cmdline(Choice { stays_in_place, ..PLAIN });
        assert!(stays(true).split(' ').any(|word| word == "nokaslr"));
        assert!(!stays(false).contains("kaslr"));
    }

    #[test]
    fn what_the_user_appends_comes_last_in_order() {
        let append = ["panic=5".to_owned(), "a b".to_owned()];
        let line = cmdline(Choice { append: &append, ..PLAIN });
        assert!(line.starts_with("console=ttyS0 panic=-1 ") && line.ends_with(" panic=5 a b"), "{line}");
    }

    #[test]
    fn only_a_guest_on_several_ranks_is_kept_from_bouncing_pages() {
        let choice = |remote: Range<u32>, has_first_program| {
            cmdline(Choice { console_is_read: false, remote: &remote, has_first_program, ..PLAIN })
        };
        let line = |remote| choice(remote, true);
        let spread = line(2..5);
        assert!(spread.contains(" numa_balancing=disable "), "{spread}");
        assert!(spread.ends_with(" maxcpus=2 nohz_full=2-4 quiet"), "{spread}");
        let untouched = choice(2..5, false);
        assert!(!untouched.contains("maxcpus"), "nobody would bring up the others: {untouched}");
        assert!(!line(2..2).contains("numa_balancing") && !line(2..2).contains("nohz_full"));
    }
}
