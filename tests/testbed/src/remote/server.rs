//! The side that runs the command.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread;

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
    thread::spawn(move || {
        pass_input(input, stdin);
        if !is_over.load(Ordering::Acquire) {
            hang_up(group);
        }
    });
    // As with ssh, the end is that of the streams: what the command left running may hold them open.
    for (kind, piece) in output {
        if let Err(error) = write_frame(&mut stream, kind, &piece) {
            hang_up(group);
            child.wait()?;
            return Err(error);
        }
    }
    let status = status(child)?;
    // What it left running stays. Input that is still under way is read to its end: closed before, the connection would be reset, and the status lost.
    over.store(true, Ordering::Release);
    write_frame(&mut stream, Kind::Status, &[status])
}

fn start(stream: Option<impl Read + Send + 'static>, kind: Kind, send: SyncSender<(Kind, Vec<u8>)>) {
    if let Some(stream) = stream {
        thread::spawn(move || pieces(stream, |piece| send.send((kind, piece.to_vec())).is_ok()));
    }
}

/// Passes input on; returns when the client has gone.
fn pass_input(mut stream: TcpStream, stdin: Option<ChildStdin>) {
    let mut stdin = stdin;
    loop {
        match read_frame(&mut stream) {
            Ok((Kind::Stdin, piece)) if !piece.is_empty() => {
                // A command that reads no more gets no more.
                if stdin.as_mut().is_some_and(|stdin| stdin.write_all(&piece).is_err()) {
                    stdin = None;
                }
            }
            Ok((Kind::Stdin, _)) => stdin = None,
            Ok((Kind::Command | Kind::Stdout | Kind::Stderr | Kind::Status, _)) | Err(_) => return,
        }
    }
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
