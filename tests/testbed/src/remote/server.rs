//! The side that runs the command.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Kind, pieces, read_frame, write_frame};

/// Pieces of output that wait for the network; behind them the command waits.
const QUEUE: usize = 16;

/// Runs commands for whoever connects, each in this process's working directory and environment, until accepting fails.
///
/// # Errors
/// Why no more connections are accepted.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        // A client that cannot be served finds its connection closed.
        thread::spawn(move || run(stream));
    }
}

fn run(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (Kind::Command, command) = read_frame(&mut stream)? else { return Err(io::ErrorKind::InvalidData.into()) };
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(OsStr::from_bytes(&command));
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = shell.spawn()?;
    let group = Pid::from_child(&child);
    let (send, output) = mpsc::sync_channel(QUEUE);
    start(child.stdout.take(), Kind::Stdout, send.clone());
    start(child.stderr.take(), Kind::Stderr, send);
    let input = stream.try_clone()?;
    let stdin = child.stdin.take();
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let answers = Arc::new(Mutex::new(stream));
    let taken = Arc::clone(&answers);
    thread::spawn(move || {
        pass_input(input, stdin, || answer(&taken, Kind::Taken, &[]).is_ok());
        if !is_over.load(Ordering::Acquire) {
            hang_up(group);
        }
    });
    // As with ssh, the end is that of the streams: what the command left running may hold them open.
    for (kind, piece) in output {
        if let Err(error) = answer(&answers, kind, &piece) {
            hang_up(group);
            child.wait()?;
            return Err(error);
        }
    }
    let status = status(child)?;
    // What it left running stays. Input that is still under way is read to its end: closed before, the connection would be reset, and the status lost.
    over.store(true, Ordering::Release);
    answer(&answers, Kind::Status, &[status])
}

/// Tells the client, one frame after the other.
fn answer(stream: &Mutex<TcpStream>, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    write_frame(&mut *stream.lock().unwrap_or_else(PoisonError::into_inner), kind, bytes)
}

fn start(stream: Option<impl Read + Send + 'static>, kind: Kind, send: SyncSender<(Kind, Vec<u8>)>) {
    if let Some(stream) = stream {
        thread::spawn(move || pieces(stream, |piece| send.send((kind, piece.to_vec())).is_ok()));
    }
}

/// Passes input on, and says so after each piece; returns when the client has gone.
fn pass_input(mut stream: TcpStream, stdin: Option<ChildStdin>, taken: impl Fn() -> bool) {
    // A pipe that does not block: a command that reads nothing is no reason not to see that the client has gone.
    let mut stdin = stdin.filter(|stdin| rustix::io::ioctl_fionbio(stdin, true).is_ok());
    loop {
        match read_frame(&mut stream) {
            Ok((Kind::Stdin, piece)) if !piece.is_empty() => {
                match feed(&mut stdin, &piece, &stream) {
                    Fed::All => {}
                    // A command that reads no more gets no more.
                    Fed::Closed => stdin = None,
                    Fed::ClientGone => return,
                }
                if !taken() {
                    return;
                }
            }
            Ok((Kind::Stdin, _)) => stdin = None,
            Ok((Kind::Command | Kind::Stdout | Kind::Stderr | Kind::Status | Kind::Taken, _)) | Err(_) => return,
        }
    }
}

/// What became of a piece of input.
enum Fed {
    /// The pipe has taken it.
    All,
    /// The command has closed its standard input, or has ended.
    Closed,
    /// The client has gone while the command did not read.
    ClientGone,
}

/// Gives the command a piece of input, as it reads, as long as its client is there.
fn feed(stdin: &mut Option<ChildStdin>, mut piece: &[u8], client: &TcpStream) -> Fed {
    let Some(stdin) = stdin else { return Fed::All };
    while !piece.is_empty() {
        match stdin.write(piece) {
            Ok(0) => return Fed::Closed,
            Ok(taken) => piece = piece.get(taken..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
                let mut fds = [PollFd::new(stdin, PollFlags::OUT), PollFd::new(client, PollFlags::RDHUP)];
                // Interrupted, it looks again.
                if poll(&mut fds, None).is_ok() && fds.get(1).is_some_and(|client| client.revents().intersects(gone)) {
                    return Fed::ClientGone;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Fed::Closed,
        }
    }
    Fed::All
}

fn hang_up(group: Pid) {
    // Fails for a command that has ended already.
    let _ = kill_process_group(group, Signal::HUP);
}

/// The status as a shell has it.
fn status(mut child: Child) -> io::Result<u8> {
    let status: ExitStatus = child.wait()?;
    let number = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(u8::try_from(number).unwrap_or(u8::MAX))
}
