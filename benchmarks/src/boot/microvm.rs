//! A boot with QEMU's microvm, on the same kernel, initramfs and command line as vincs's, with the same devices.
//!
//! Options are chosen for what boots this kernel fastest: with a real-time clock, because without one (the default under
//! KVM) a stock kernel looks for it for seconds, and without the PC's interrupt controller and interval timer. `-cpu host`
//! and virtio without its legacy interface are what vincs has, too. The rest is QEMU's default: KVM's own local APICs and
//! clock, and its firmware, which loads the initramfs (and a bzImage) and enters the kernel.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vincs_guest_protocol::{CONTROL_PORT, STDERR_PORT, STDIN_PORT, STDOUT_PORT};

use super::guest::{Guest, MEMORY, OUTPUT};
use super::qmp::Qmp;
use super::{Boot, BootError, file_error, time};

/// The machine; see above.
const MACHINE: &str = "microvm,rtc=on,pit=off,pic=off";
/// QEMU's program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// How long a boot may take: as long as vincs gives its guests by default.
const BOOT_TIME: Duration = Duration::from_secs(300);
/// The ports of the console device, in vincs's order. The standard output is the one that is timed.
const PORTS: [&str; 4] = [CONTROL_PORT, STDIN_PORT, STDOUT_PORT, STDERR_PORT];

/// QEMU's arguments for a guest, with the ports' sockets and other files in the folder `work`.
fn arguments(guest: &Guest, work: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> =
        ["-nodefaults", "-no-user-config", "-no-reboot", "-S", "-display", "none"].map(OsString::from).into();
    let mut option = |name: &str, value: String| args.extend([OsString::from(name), value.into()]);
    option("-M", MACHINE.into());
    option("-accel", "kvm".into());
    option("-cpu", "host".into());
    option("-smp", guest.vcpus.to_string());
    option("-m", format!("{}M", MEMORY >> 20));
    option("-kernel", guest.kernel.display().to_string());
    option("-initrd", guest.initramfs.display().to_string());
    option("-append", guest.cmdline.clone());
    option("-global", "virtio-mmio.force-legacy=false".into());
    option("-chardev", "stdio,id=qmp,signal=off".into());
    option("-mon", "chardev=qmp,mode=control".into());
    option("-chardev", format!("file,id=console,path={}", work.join("console").display()));
    option("-serial", "chardev:console".into());
    option("-device", "virtio-rng-device".into());
    for (n, share) in guest.shares.iter().enumerate() {
        // What is mounted below the share has inode numbers of its own: remap keeps them apart.
        let server = "security_model=none,readonly=on,multidevs=remap";
        // QEMU reads a comma that is written twice as one of the path.
        option("-fsdev", format!("local,id=share{n},path={},{server}", share.replace(',', ",,")));
        option("-device", format!("virtio-9p-device,fsdev=share{n},mount_tag=vincs{n}"));
    }
    option("-device", "virtio-serial-device".into());
    for (number, port) in (1..).zip(PORTS) {
        option("-chardev", format!("socket,id={port},path={}", work.join(port).display()));
        option("-device", format!("virtserialport,chardev={port},nr={number},name={port}"));
    }
    args
}

/// QEMU, ended when it is dropped.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // Fails only for a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots the guest once. The time runs from the end of `-S`, so it has QEMU's firmware in it.
///
/// # Errors
/// [`BootError`] when QEMU fails or the command's output is not what it should be.
pub fn boot(guest: &Guest) -> Result<Boot, BootError> {
    let work = tempfile::Builder::new().prefix("vincs-bench-").tempdir();
    let work = work.map_err(file_error("cannot make a folder for QEMU's files"))?;
    let messages = work.path().join("messages");
    let failed = |what| {
        let (messages, console) = (messages.clone(), work.path().join("console"));
        move |error: io::Error| BootError::Failed { program: "QEMU", what, detail: words(&error, &messages, &console) }
    };
    let listeners = PORTS.iter().map(|port| UnixListener::bind(work.path().join(port)));
    let listeners = listeners.collect::<io::Result<Vec<_>>>().map_err(file_error("cannot make QEMU's sockets"))?;
    let stderr = File::create(&messages).map_err(file_error("cannot make a file for QEMU's messages"))?;
    let started = Instant::now();
    let mut command = Command::new(PROGRAM);
    command.args(arguments(guest, work.path())).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
    let child = command.spawn().map_err(|source| BootError::Start { program: PathBuf::from(PROGRAM), source })?;
    let mut qemu = Qemu(child);
    let (Some(stdin), Some(stdout)) = (qemu.0.stdin.take(), qemu.0.stdout.take()) else {
        return Err(failed("has no standard streams")(io::ErrorKind::BrokenPipe.into()));
    };
    let mut qmp = Qmp::connect(stdout, stdin).map_err(failed("does not start"))?;
    // QEMU connected its ports before it greeted, so accepting does not wait. All stay open while the guest runs.
    let ports = listeners.iter().map(|listener| Ok(listener.accept()?.0));
    let ports = ports.collect::<io::Result<Vec<UnixStream>>>().map_err(failed("does not open its ports"))?;
    for port in &ports {
        port.set_read_timeout(Some(BOOT_TIME)).map_err(failed("has ports that cannot be used"))?;
    }
    let port = |wanted| PORTS.iter().zip(&ports).find_map(|(name, port)| (*name == wanted).then_some(port));
    let (Some(control), Some(output)) = (port(CONTROL_PORT), port(STDOUT_PORT)) else {
        return Err(failed("lacks a port")(io::ErrorKind::NotFound.into()));
    };

    let entered = Instant::now();
    qmp.execute("cont").map_err(failed("does not run"))?;
    time::answer(control).map_err(failed("did not ask for the time"))?;
    let byte = first_byte(output).map_err(failed("did not run the command"))?;
    let arrived = Instant::now();
    if OUTPUT.first() != Some(&byte) {
        return Err(failed("printed something else")(io::ErrorKind::InvalidData.into()));
    }
    Ok(Boot {
        set_up: entered.duration_since(started).as_secs_f64(),
        boot: arrived.duration_since(entered).as_secs_f64(),
    })
}

fn first_byte(mut port: &UnixStream) -> io::Result<u8> {
    let mut byte = [0];
    port.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// What is known of a failure: the error, QEMU's messages, the guest's console.
fn words(error: &io::Error, messages: &Path, console: &Path) -> String {
    let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).trim().to_owned();
    [error.to_string(), text(messages), text(console)].join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_reaches_qemu() {
        let guest = Guest {
            kernel: "/k".into(),
            initramfs: "/i".into(),
            cmdline: "console=ttyS0 quiet".into(),
            vcpus: 3,
            shares: vec!["/".into(), "/srv/a,b".into()],
        };
        let args: Vec<_> =
            arguments(&guest, Path::new("/w")).into_iter().map(|arg| arg.into_string().unwrap()).collect();
        let has = |name: &str, value: &str| args.windows(2).any(|pair| pair == [name, value]);
        assert!(has("-smp", "3") && has("-m", "1024M") && has("-append", "console=ttyS0 quiet"));
        assert!(has("-kernel", "/k") && has("-initrd", "/i"));
        let server = "security_model=none,readonly=on,multidevs=remap";
        assert!(has("-fsdev", &format!("local,id=share1,path=/srv/a,,b,{server}")));
        assert!(has("-device", "virtio-9p-device,fsdev=share1,mount_tag=vincs1"));
        assert!(has("-device", "virtserialport,chardev=vincs.stdout,nr=3,name=vincs.stdout"));
        assert!(has("-chardev", "socket,id=vincs.stdout,path=/w/vincs.stdout"));
    }
}
