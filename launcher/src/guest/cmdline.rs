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

/// Keeps all but errors off the console: each character is an exit to vincs, dear when nobody reads them.
const QUIET: &str = "quiet";

/// What the command line depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// Whether somebody reads the console.
    pub(crate) console_is_read: bool,
    /// What the user adds, last, so that it overrides.
    pub(crate) append: &'a [String],
}

/// The command line for this choice.
pub(crate) fn cmdline(choice: Choice<'_>) -> String {
    let always = ALWAYS.iter().map(|(option, _)| *option);
    let quiet = (!choice.console_is_read).then_some(QUIET);
    let append = choice.append.iter().map(String::as_str);
    always.chain(quiet).chain(append).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_nobody_reads_is_quiet() {
        let words = |console_is_read| cmdline(Choice { console_is_read, append: &[] });
        assert!(words(false).split(' ').any(|word| word == "quiet"));
        assert!(!words(true).split(' ').any(|word| word == "quiet"));
    }

    #[test]
    fn what_the_user_appends_comes_last_in_order() {
        let append = ["panic=5".to_owned(), "a b".to_owned()];
        let line = cmdline(Choice { console_is_read: true, append: &append });
        assert!(line.starts_with("console=ttyS0 panic=-1 ") && line.ends_with(" panic=5 a b"), "{line}");
    }
}
