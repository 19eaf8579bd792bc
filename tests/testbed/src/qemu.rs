//! The QEMU process of a node: its arguments, its start, its end.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::hosts::Card;

/// Most processors of a node. QEMU's q35 takes more; software processors beyond the machine's own only take turns.
pub const MAX_CPUS: u32 = 64;

/// Least memory of a node in bytes: its kernel, modules and overlay fit and leave something for the command.
pub const MIN_MEMORY: u64 = 512 << 20;

/// Translated code that QEMU keeps, in MiB. With less, a nested kernel's boot throws translations away and makes them again.
const TRANSLATION_CACHE_MIB: u32 = 1024;

/// The node kernel's command line. `panic=-1` reboots at once, which ends QEMU (`-no-reboot`); mitigations only cost time here.
/// All software processors read one time-stamp counter, which the kernel cannot know: trusted, it is the node's clock.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable";

/// The machine, without parts that a node has no use for and its kernel would look at.
const MACHINE: &str = "q35,sata=off,smbus=off,i8042=off,hpet=off";

/// Names of the node's virtio ports; a port's number is its place here, from 1.
const PORTS: [&str; 4] = ["stdout", "stderr", "report", "stdin"];

/// What QEMU is started with.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) cpus: u32,
    /// Bytes; QEMU takes whole MiB.
    pub(crate) memory: u64,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// The rate of the time-stamp counter.
    pub(crate) counter_khz: u64,
    /// Receives what the node's serial console prints.
    pub(crate) console: &'a Path,
    /// Cards on the networks that several nodes have in common.
    pub(crate) cards: Vec<Card>,
}

impl Machine<'_> {
    /// QEMU's arguments, with one open descriptor for each of [`PORTS`].
    fn arguments(&self, ports: [RawFd; PORTS.len()]) -> Vec<OsString> {
        let mut args = Vec::<OsString>::new();
        let mut option = |name: &str, value: &OsStr| args.extend([name.into(), value.into()]);
        option("-M", MACHINE.as_ref());
        option("-accel", format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}").as_ref());
        // With enforce, a QEMU that cannot emulate SVM says so and ends, instead of starting a node without /dev/kvm.
        option("-cpu", "max,+svm,+npt,enforce".as_ref());
        option("-smp", self.cpus.to_string().as_ref());
        option("-m", format!("{}M", self.memory >> 20).as_ref());
        option("-display", "none".as_ref());
        option("-kernel", self.kernel.as_os_str());
        option("-initrd", self.initramfs.as_os_str());
        option("-append", format!("{KERNEL_ARGUMENTS} tsc_early_khz={}", self.counter_khz).as_ref());
        option("-chardev", &joined("file,id=console,path=", self.console));
        option("-serial", "chardev:console".as_ref());
        // The machine's root may span file systems: remap keeps their inode numbers apart.
        option("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap".as_ref());
        option("-device", "virtio-9p-pci,fsdev=host,mount_tag=host".as_ref());
        // No way out of the node, and no boot ROM that waits for a network.
        option("-netdev", "user,id=net,restrict=on".as_ref());
        option("-device", "virtio-net-pci,netdev=net,romfile=".as_ref());
        for (number, card) in (1..).zip(&self.cards) {
            let socket = card.socket.as_raw_fd();
            option("-netdev", format!("dgram,id=net{number},local.type=fd,local.str={socket}").as_ref());
            option("-device", format!("virtio-net-pci,netdev=net{number},mac={},romfile=", card.mac).as_ref());
        }
        option("-device", "virtio-serial-pci".as_ref());
        for (number, (name, fd)) in (1..).zip(PORTS.iter().zip(ports)) {
            option("-chardev", format!("socket,id={name},fd={fd}").as_ref());
            option("-device", format!("virtserialport,chardev={name},nr={number},name={name}").as_ref());
        }
        // The node's random numbers must not wait for an idle machine to gather some.
        option("-device", "virtio-rng-pci".as_ref());
        args.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from));
        args
    }
}

/// `prefix` and a path as one QEMU option, where a comma is written twice.
fn joined(prefix: &str, path: &Path) -> OsString {
    let mut bytes = prefix.as_bytes().to_vec();
    for &byte in path.as_os_str().as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes)
}

/// This side of the node's ports.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) stdout: UnixStream,
    pub(crate) stderr: UnixStream,
    pub(crate) report: UnixStream,
    pub(crate) stdin: UnixStream,
}

/// A running QEMU. Dropping it ends it; so does the end of the thread that started it.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    messages: PathBuf,
}

impl Qemu {
    /// Starts QEMU; its own messages go to the file `messages`.
    pub(crate) fn start(program: &Path, machine: Machine<'_>, messages: PathBuf) -> io::Result<(Self, Ports)> {
        let (stdout, their_stdout) = UnixStream::pair()?;
        let (stderr, their_stderr) = UnixStream::pair()?;
        let (report, their_report) = UnixStream::pair()?;
        let (stdin, their_stdin) = UnixStream::pair()?;
        let theirs = [their_stdout, their_stderr, their_report, their_stdin];
        let fds = theirs.each_ref().map(AsRawFd::as_raw_fd);

        let mut command = Command::new(program);
        command.args(machine.arguments(fds));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&messages)?);
        // A group of its own: Ctrl-C reaches this program, which then ends QEMU and tidies up.
        command.process_group(0);
        let sockets: Vec<OwnedFd> = machine.cards.into_iter().map(|card| card.socket).collect();
        let parent = rustix::process::getpid();
        let prepare = move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The parent may have gone before the line above took effect.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            for fd in theirs.iter().map(AsFd::as_fd).chain(sockets.iter().map(AsFd::as_fd)) {
                rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec `prepare` makes system calls only; it takes no lock and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn()?;
        Ok((Self { child, messages }, Ports { stdout, stderr, report, stdin }))
    }

    /// How QEMU ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Ends QEMU and waits for it.
    pub(crate) fn kill(&mut self) {
        // Fails only for a process that has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last line of QEMU's own messages.
    pub(crate) fn last_message(&self) -> Option<String> {
        let text = std::fs::read(&self.messages).ok()?;
        String::from_utf8_lossy(&text).lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> Vec<String> {
        arguments_with(Vec::new())
    }

    fn arguments_with(cards: Vec<Card>) -> Vec<String> {
        let machine = Machine {
            cpus: 3,
            memory: 4 << 30,
            kernel: Path::new("/k/vmlinuz"),
            initramfs: Path::new("/t/initramfs"),
            counter_khz: 2_000_123,
            console: Path::new("/t/a,b/console"),
            cards,
        };
        machine.arguments([10, 11, 12, 13]).into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    fn has(name: &str, value: &str) -> bool {
        arguments().windows(2).any(|pair| pair == [name, value])
    }

    #[test]
    fn the_shape_of_the_node_reaches_qemu() {
        assert!(has("-smp", "3"));
        assert!(has("-m", "4096M"));
        assert!(has("-kernel", "/k/vmlinuz"));
        assert!(has("-initrd", "/t/initramfs"));
        assert!(arguments().iter().any(|word| word.ends_with(" tsc_early_khz=2000123")));
    }

    #[test]
    fn each_port_has_its_number_and_descriptor() {
        assert!(has("-chardev", "socket,id=stdout,fd=10"));
        assert!(has("-device", "virtserialport,chardev=stdout,nr=1,name=stdout"));
        assert!(has("-chardev", "socket,id=stdin,fd=13"));
        assert!(has("-device", "virtserialport,chardev=stdin,nr=4,name=stdin"));
    }

    #[test]
    fn only_nodes_side_by_side_have_more_cards() {
        let cards = |args: &[String]| args.iter().filter(|arg| arg.starts_with("virtio-net-pci")).count();
        assert_eq!(cards(&arguments()), 1);
        let common = crate::hosts::cards(2).unwrap().remove(1);
        let first = (common[0].socket.as_raw_fd(), common[0].mac.clone());
        let args = arguments_with(common);
        assert_eq!(cards(&args), 1 + crate::hosts::NETWORKS.len());
        assert!(args.contains(&format!("dgram,id=net1,local.type=fd,local.str={}", first.0)), "{args:?}");
        assert!(args.contains(&format!("virtio-net-pci,netdev=net1,mac={},romfile=", first.1)), "{args:?}");
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        assert!(has("-chardev", "file,id=console,path=/t/a,,b/console"));
    }

    #[test]
    fn the_machines_root_is_read_only_and_the_network_closed() {
        let fsdev = arguments().into_iter().find(|a| a.starts_with("local,")).unwrap();
        assert!(fsdev.contains("readonly=on"));
        assert!(has("-netdev", "user,id=net,restrict=on"));
    }
}
