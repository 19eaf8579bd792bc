//! The guest kernel's command line (kernel documentation, admin-guide/kernel-parameters).

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
const DISTRIBUTED: [(&str, &str); 10] = [
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
        "noreplace-smp",
        "a kernel that starts one processor takes the locks out of its code, and puts them back for the second",
    ),
];

/// The processors of other ranks: what the kernel is to do with them.
const REMOTE: [(&str, &str); 2] = [
    (
        "maxcpus=N",
        "only rank 0's start with the kernel; the others when the guest is set up, or pages bounce all boot long",
    ),
    (
        "nohz_full=N-M",
        "no ticks while they have nothing or one thing to do, no keeping of time, no RCU callbacks, no calls to balance the load",
    ),
];

/// Keeps all but errors off the console: each character is an exit to vincs, dear when nobody reads them.
const QUIET: &str = "quiet";

/// What the command line depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// Whether somebody reads the console.
    pub(crate) console_is_read: bool,
    /// How the guest is spread over ranks, if it is.
    pub(crate) spread: Option<Spread>,
    /// What the user adds, last, so that it overrides.
    pub(crate) append: &'a [String],
}

/// A guest on several ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    /// vCPUs of rank 0: the first ones.
    pub(crate) first_rank: u32,
    /// vCPUs of the machine.
    pub(crate) vcpus: u32,
    /// Whether vincs's own first program runs in the guest and brings up the other ranks' processors.
    pub(crate) brought_up: bool,
}

impl Spread {
    /// The values of [`REMOTE`].
    fn remote(self) -> Vec<String> {
        let Self { first_rank, vcpus, brought_up } = self;
        let values = [brought_up.then(|| first_rank.to_string()), Some(format!("{first_rank}-{}", vcpus - 1))];
        let names = REMOTE.iter().filter_map(|(option, _)| option.split('=').next());
        names.zip(values).filter_map(|(name, value)| Some(format!("{name}={}", value?))).collect()
    }
}

/// The command line for this choice.
pub(crate) fn cmdline(choice: Choice<'_>) -> String {
    let always = ALWAYS.iter().map(|(option, _)| *option);
    let distributed = DISTRIBUTED.iter().filter(|_| choice.spread.is_some()).map(|(option, _)| *option);
    let remote = choice.spread.map(Spread::remote).unwrap_or_default();
    let quiet = (!choice.console_is_read).then_some(QUIET);
    let append = choice.append.iter().map(String::as_str);
    always
        .chain(distributed)
        .chain(remote.iter().map(String::as_str))
        .chain(quiet)
        .chain(append)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_nobody_reads_is_quiet() {
        let words = |console_is_read| cmdline(Choice { console_is_read, spread: None, append: &[] });
        assert!(words(false).split(' ').any(|word| word == "quiet"));
        assert!(!words(true).split(' ').any(|word| word == "quiet"));
    }

    #[test]
    fn what_the_user_appends_comes_last_in_order() {
        let append = ["panic=5".to_owned(), "a b".to_owned()];
        let line = cmdline(Choice { console_is_read: true, spread: None, append: &append });
        assert!(line.starts_with("console=ttyS0 panic=-1 ") && line.ends_with(" panic=5 a b"), "{line}");
    }

    #[test]
    fn only_a_guest_on_several_ranks_is_kept_from_bouncing_pages() {
        let line = |spread| cmdline(Choice { console_is_read: false, spread, append: &[] });
        let spread = Spread { first_rank: 2, vcpus: 5, brought_up: true };
        let spread_line = line(Some(spread));
        assert!(spread_line.contains(" numa_balancing=disable "), "{spread_line}");
        assert!(spread_line.ends_with(" maxcpus=2 nohz_full=2-4 quiet"), "{spread_line}");
        assert!(!line(None).contains("numa_balancing") && !line(None).contains("maxcpus"));
        let untouched = line(Some(Spread { brought_up: false, ..spread }));
        assert!(!untouched.contains("maxcpus"), "nobody would bring up the others: {untouched}");
    }
}
