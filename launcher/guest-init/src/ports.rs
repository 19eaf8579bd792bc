//! Finds virtio-console ports by name (Virtual I/O Device specification 1.2, 5.3) and opens them.

use crate::error::{InStep, SetupError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const CLASS: &str = "/sys/class/virtio-ports";
/// How long a port is waited for.
const PORT_TIME: Duration = Duration::from_secs(10);
/// How long vincs is waited for to open its end of a port that is there. A port that it has closed already, as stdin at
/// its end, looks the same, so this is short and no error.
const PEER_TIME: Duration = Duration::from_secs(1);
/// How often both are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Opens the port with this name, not blocking.
pub(crate) fn open(name: &str) -> Result<OwnedFd, SetupError> {
    let deadline = Instant::now() + PORT_TIME;
    let path = loop {
        if let Some(path) = find(Path::new(CLASS), name) {
            break path;
        }
        if Instant::now() >= deadline {
            return Err(SetupError::NoPort { name: name.to_owned(), waited: PORT_TIME });
        }
        thread::sleep(LOOK_INTERVAL);
    };
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let port =
        rustix::fs::open(&path, flags, Mode::empty()).step(|| format!("open port {name} ({})", path.display()))?;
    wait_for_peer(&port);
    Ok(port)
}

fn find(class: &Path, name: &str) -> Option<PathBuf> {
    // Ports appear one by one, and their names after them.
    let named = |port: &fs::DirEntry| fs::read_to_string(port.path().join("name")).is_ok_and(|n| n.trim_end() == name);
    let port = fs::read_dir(class).ok()?.flatten().find(named)?;
    Some(Path::new("/dev").join(port.file_name()))
}

/// Until the other end is open, reading gives the end of the stream at once, as after its closing.
fn wait_for_peer(port: &impl AsFd) {
    let deadline = Instant::now() + PEER_TIME;
    while is_hung_up(port) && Instant::now() < deadline {
        thread::sleep(LOOK_INTERVAL);
    }
}

fn is_hung_up(port: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(port, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_found_by_its_whole_name() {
        let class = tempfile::tempdir().unwrap();
        for (port, name) in
            [("vport0p1", "vincs.stdout\n"), ("vport0p2", "vincs.std\n"), ("vport0p3", "vincs.control\n")]
        {
            fs::create_dir(class.path().join(port)).unwrap();
            fs::write(class.path().join(port).join("name"), name).unwrap();
        }
        fs::create_dir(class.path().join("vport0p4")).unwrap();
        assert_eq!(find(class.path(), "vincs.control").unwrap(), Path::new("/dev/vport0p3"));
        assert_eq!(find(class.path(), "vincs.std").unwrap(), Path::new("/dev/vport0p2"));
        assert_eq!(find(class.path(), "vincs.stdin"), None);
    }

    #[test]
    fn an_open_peer_is_told_from_a_closed_one() {
        let (port, peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!is_hung_up(&port));
        drop(peer);
        assert!(is_hung_up(&port));
    }
}
