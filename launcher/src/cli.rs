//! The command line. `vincs --help` is its reference, so every option says its unit and default here.

pub(crate) mod arguments;
pub(crate) mod cluster;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use cluster::{ClusterArgs, TransportArg};

use crate::ctl::CtlArgs;
use crate::input::disk::DiskArg;
use crate::input::share::ShareArg;
use crate::input::size::parse_size;

/// Seconds that a guest of one rank may take from kernel entry to the start of CMD; generous, because a guest on an emulated
/// host is a hundred times slower than on a real one.
const DEFAULT_BOOT_TIMEOUT_SECS: u64 = 300;

/// Where KVM is, if `--kvm` does not say otherwise.
pub(crate) const DEFAULT_KVM: &str = "/dev/kvm";

const EXIT_STATUS_HELP: &str = "\
Exit status:
  That of CMD; 128+N when signal N killed it. Further:
    2  bad command line or input: nothing was started
  120  a rank was lost: it died, hung, or its network was cut
  121  the guest kernel panicked
  122  a virtual processor shut down (triple fault)
  123  the guest did not get to CMD within --boot-timeout
  124  the guest powered off or reset itself before CMD ended
  125  vincs itself failed: KVM, a device, or the set-up of the guest; or the host did not take CMD's output
  126  CMD was found in the guest, but cannot be executed
  127  CMD was not found in the guest
  Without CMD: 0 when the guest powers off or resets, or on Ctrl-a x.
  All ranks of a machine have the same.

Signals:
  INT, TERM, HUP, QUIT, USR1, USR2, CONT and WINCH go to CMD once it runs. Before that INT, TERM, HUP and QUIT end
  vincs. Three INT or TERM within a second end vincs at any time, for a guest that does not react. Of several ranks
  only rank 0 takes them; the others end with it.

Environment:
  OMPI_COMM_WORLD_RANK, PMIX_RANK, PMI_RANK, SLURM_PROCID
             the first that is set says which rank this is; OMPI_COMM_WORLD_SIZE, SLURM_STEP_NUM_TASKS or PMI_SIZE how
             many there are. CMD does not see what a launcher tells one rank.
  VINCS_RELAXED
             set for CMD with --relaxed: the path of the device in the guest; taken away without.
  VINCS_RACE_CHECK
             1 with --relaxed on several ranks: tells on stderr of bytes of relaxed memory that two ranks write without
             synchronising. Programs are slower then.
  VINCS_LOG  what vincs logs to stderr, as a tracing filter: `info`, `vincs_vmm=debug`. Default: nothing.";

/// Runs CMD in a virtual machine of its own, under a stock Linux kernel, with this host's files and this directory.
///
/// The guest sees the host's files with all changes kept to itself, except below the current directory (unless that
/// is `/`) and each --share: what CMD changes there it changes on the host. /proc, /sys, /dev, /run and /tmp are the
/// guest's own. CMD's standard streams, environment, user and working directory are the caller's.
///
/// Without CMD, vincs boots --initrd or the first --disk to the console on this terminal; Ctrl-a x ends it,
/// Ctrl-a Ctrl-a sends a Ctrl-a.
///
/// Started as one of several ranks, it is a part of one machine: each rank gives it processors and memory, rank 0 the devices, files and
/// standard streams. All ranks are given the same arguments. `vincs-rank` is the same program, and refuses to run alone.
#[derive(Debug, Parser)]
#[command(name = "vincs", version, after_long_help = EXIT_STATUS_HELP, max_term_width = 120)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(
    override_usage = "vincs [OPTIONS] -- CMD [ARGS]...\n       vincs [OPTIONS] --initrd INITRD | --disk FILE\n       vincs doctor\n       vincs-rank --join FILE|HOST:PORT\n       vincs ctl status|top|migrate|remove|pause|resume|stop|stats"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) action: Option<Action>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Says what this host can do for vincs, one line each with what to do about it.
    ///
    /// Lines are `ok|warn|fail  NAME: finding`. Exit status 0 when vincs can run a Linux guest here, else 1.
    Doctor(DoctorArgs),
    /// Orders a machine about that runs: where its virtual processors are, and whether they run.
    ///
    /// On the host of its rank 0, by the user who runs it. Exit status 0 when it is done, 2 when it makes no sense (no such processor,
    /// rank or machine), 1 when the machine cannot.
    Ctl(CtlArgs),
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Make only this check: status 0 when it is ok, else 1. Names are those that `vincs doctor` prints
    #[arg(long, value_name = "NAME")]
    pub(crate) check: Option<String>,
    /// KVM device to ask instead of /dev/kvm
    #[arg(long, value_name = "PATH", default_value = DEFAULT_KVM, hide = true)]
    pub(crate) kvm: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Guest kernel, a bzImage or an ELF vmlinux [default: the newest kernel of this host]
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Initial RAM disk. With CMD, vincs adds its own files to it; without, it is booted as it is [default: vincs's own]
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Directory of the guest kernel's modules [default: the one that belongs to the kernel]
    #[arg(long, value_name = "DIR")]
    pub(crate) modules: Option<PathBuf>,
    /// Number of virtual processors of the machine [default: the host processors that vincs may run on; the number of ranks]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) vcpus: Option<u32>,
    /// Guest memory of the machine in bytes, or with a binary suffix K, M, G, T [default: 1G, or half of the host's when that is
    /// less]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    pub(crate) mem: Option<u64>,
    /// Memory of the machine apart from --mem that programs reach as a DAX device, in multiples of 2M; CMD finds the device's path in
    /// VINCS_RELAXED. On several ranks it is coherent where programs synchronise, and goes over TCP [default: none]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    pub(crate) relaxed: Option<u64>,
    /// Number of virtual NUMA nodes that processors and memory are split into [default: 1; always one for each rank]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) numa: Option<u32>,
    /// Raw disk image or block device, as /dev/vda, /dev/vdb, ... in order; `,ro` makes it read-only. Repeatable
    #[arg(long = "disk", value_name = "FILE[,ro]")]
    pub(crate) disks: Vec<DiskArg>,
    /// Host directory that CMD may change, at the same path; `:ro` makes it read-only. Repeatable
    #[arg(long = "share", value_name = "DIR[:ro]")]
    pub(crate) shares: Vec<ShareArg>,
    /// Text to add at the end of the kernel's command line. Repeatable
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub(crate) append: Vec<String>,
    /// File that gets the guest's serial console, with all kernel messages; `-` is stderr [default with CMD: nowhere,
    /// but the last lines are shown when the guest fails; without CMD: this terminal]
    #[arg(long, value_name = "FILE|-")]
    pub(crate) console: Option<PathBuf>,
    /// File to write times, counters and the machine's configuration to at the end, as JSON
    #[arg(long, value_name = "FILE.json")]
    pub(crate) stats: Option<PathBuf>,
    /// File to write the guest's initial RAM disk to, as it is booted; for comparison with other virtual machine monitors
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub(crate) keep_initramfs: Option<PathBuf>,
    /// Seconds from kernel entry within which CMD must start [default: 300 for each rank]
    #[arg(long, value_name = "SECS", allow_negative_numbers = true)]
    boot_timeout: Option<u64>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// KVM device to use instead of /dev/kvm
    #[arg(long, value_name = "PATH", default_value = DEFAULT_KVM, hide = true)]
    pub(crate) kvm: PathBuf,
    /// The command to run in the guest, with its arguments; found there by the caller's PATH
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

impl RunArgs {
    /// How long the guest of so many ranks may take from kernel entry to the start of CMD.
    pub(crate) fn boot_timeout(&self, ranks: u16) -> Duration {
        Duration::from_secs(self.boot_timeout.unwrap_or(DEFAULT_BOOT_TIMEOUT_SECS * u64::from(ranks)))
    }

    /// Why ranks of this machine stay, though they are to leave in some time: what to do about it.
    pub(crate) fn useless_grace(&self) -> Option<&'static str> {
        if !self.cluster.leaves_on_term() {
            return None;
        }
        match self.cluster.transport {
            _ if self.relaxed.is_some_and(|bytes| bytes > 0) => {
                Some("--grace lets ranks leave, and those of a machine with --relaxed stay: leave one of the two away")
            }
            Some(TransportArg::Rdma) => {
                Some("--grace lets ranks leave, and ranks that are connected by RDMA stay: use --transport tcp")
            }
            Some(TransportArg::Auto | TransportArg::Tcp) | None => None,
        }
    }
}

/// Whether a command line, which may be wrong, has `--join` among vincs's own options.
pub(crate) fn wants_to_join(arguments: impl Iterator<Item = OsString>) -> bool {
    let own = arguments.take_while(|argument| argument != "--");
    own.map(OsString::into_encoded_bytes).any(|argument| argument == b"--join" || argument.starts_with(b"--join="))
}

/// clap's report of a bad command line as one line, with what to do.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let words: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let needs_dashes = matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand);
    let hint = if needs_dashes { "put `--` before the command to run; see vincs --help" } else { "see vincs --help" };
    format!("{line}; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::cluster::TransportArg;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_command_named_doctor_is_reached_after_the_dashes() {
        let cli = Cli::try_parse_from(["vincs", "--", "doctor", "--check"]).unwrap();
        assert!(cli.action.is_none());
        assert_eq!(cli.run.command, ["doctor", "--check"]);
        let cli = Cli::try_parse_from(["vincs", "doctor", "--check", "kvm"]).unwrap();
        assert!(matches!(cli.action, Some(Action::Doctor(DoctorArgs { check: Some(name), .. })) if name == "kvm"));
    }

    #[test]
    fn the_transport_is_one_of_three_and_not_given_by_itself() {
        let given = |arguments: &[&str]| {
            let cli = Cli::try_parse_from([&["vincs"], arguments, &["--", "x"]].concat());
            cli.map(|cli| cli.run.cluster.transport).map_err(|error| one_line(&error))
        };
        assert_eq!(given(&[]), Ok(None));
        assert_eq!(given(&["--transport", "auto"]), Ok(Some(TransportArg::Auto)));
        assert_eq!(given(&["--transport", "rdma"]), Ok(Some(TransportArg::Rdma)));
        assert_eq!(given(&["--transport", "tcp"]), Ok(Some(TransportArg::Tcp)));
        let line = given(&["--transport", "carrier-pigeon"]).unwrap_err();
        assert!(line.contains("carrier-pigeon") && line.contains("auto, rdma, tcp"), "{line}");
    }

    #[test]
    fn options_of_the_command_are_left_alone() {
        let cli = Cli::try_parse_from(["vincs", "--vcpus", "2", "--", "ls", "--vcpus", "--", "-l"]).unwrap();
        assert_eq!(
            (cli.run.vcpus, cli.run.command),
            (Some(2), vec!["ls".into(), "--vcpus".into(), "--".into(), "-l".into()])
        );
    }

    #[test]
    fn every_bad_line_is_one_line_with_a_hint() {
        for bad in [
            &["vincs", "ls"][..],
            &["vincs", "--vcpus", "x"],
            &["vincs", "--mem", "1Q"],
            &["vincs", "--disk"],
            &["vincs", "-x"],
        ] {
            let line = one_line(&Cli::try_parse_from(bad).unwrap_err());
            assert!(
                !line.contains('\n') && line.ends_with("see vincs --help") && !line.starts_with("error"),
                "{bad:?}: {line}"
            );
        }
    }

    #[test]
    fn a_rank_that_joins_has_no_command_and_is_told_so() {
        let joins = |arguments: &[&str]| wants_to_join(arguments.iter().map(OsString::from));
        assert!(joins(&["vincs-rank", "--join", "a"]) && joins(&["vincs-rank", "--mem", "x", "--join=a"]));
        assert!(!joins(&["vincs-rank", "--", "x", "--join", "a"]) && !joins(&["vincs-rank", "--joint"]));
        let line = one_line(&Cli::try_parse_from(["vincs-rank", "--join", "a", "--", "x"]).unwrap_err());
        assert!(line.contains("--join") && line.contains("cannot be used with"), "{line}");
        for (grace, is_good) in [("0", false), ("1", true), ("86400", true), ("86401", false)] {
            assert_eq!(
                Cli::try_parse_from(["vincs-rank", "--join", "a", "--grace", grace]).is_ok(),
                is_good,
                "{grace}"
            );
        }
    }

    #[test]
    fn a_rank_that_joins_has_no_say_in_the_machine() {
        use clap::CommandFactory;
        let joins = |option: &[&str]| Cli::try_parse_from([&["vincs-rank", "--join", "a"][..], option].concat());
        let own = ["address-file", "net-if", "kvm", "grace", "wireup-timeout", "join", "help", "version"];
        let value = |name: &str| match name {
            "transport" => "tcp",
            "placement" => "pack",
            "gather" => "never",
            "mem" | "relaxed" | "cache" => "64M",
            _ => "1",
        };
        let command = Cli::command();
        let names: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        assert!(names.len() > 25, "{names:?}");
        for name in names.iter().filter(|name| !own.contains(name)) {
            let option = format!("--{name}={}", value(name));
            let line = one_line(&joins(&[&option]).expect_err(&option));
            assert!(line.contains(&format!("--{name}")) && line.contains("cannot be used with"), "{line}");
        }
        for name in ["address-file", "net-if", "kvm", "grace", "wireup-timeout"] {
            assert!(names.contains(&name) && joins(&[&format!("--{name}=1")]).is_ok(), "{name}");
        }
        for (arguments, is_good) in [
            (&["--grace", "9"][..], true),
            (&["--relaxed", "2M"], true),
            (&["--relaxed", "2M", "--grace", "9"], false),
            (&["--transport", "rdma", "--grace", "9"], false),
            (&["--transport", "auto", "--grace", "9"], true),
        ] {
            let cli = Cli::try_parse_from([&["vincs"], arguments].concat()).unwrap();
            assert_eq!(cli.run.useless_grace().is_none(), is_good, "{arguments:?}");
        }
    }

    #[test]
    fn an_unknown_suffix_is_named() {
        let line = one_line(&Cli::try_parse_from(["vincs", "--mem", "5Q"]).unwrap_err());
        assert!(line.contains("5Q") && line.contains("--mem") && line.contains("K, M, G"), "{line}");
    }
}
