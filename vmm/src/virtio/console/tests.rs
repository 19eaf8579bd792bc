use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::ioctl_fionread;

use super::port::CHUNK;
use super::*;
use crate::virtio::testing::{Driver, END_OF_RAM, PATIENCE, Used, WRITE};

const PAGE: u32 = 4096;
/// Long enough for the worker to do what it must not do.
const A_WHILE: Duration = Duration::from_millis(50);

/// A message as the driver sees it: port, event, value, name.
type Message = (u32, u16, u16, String);

const READY: u16 = 0;
const ADD: u16 = 1;
const PORT_READY: u16 = 3;
const OPEN: u16 = 6;
const NAME: u16 = 7;

/// Linux's side of a console.
struct Guest(Driver);

/// Processor time that the console's thread has used.
fn processor_time(guest: &Guest) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let named = |task: &std::path::PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == guest.0.transport.name())
    };
    let task = tasks.into_iter().find(named).expect("the console's thread");
    let stat = std::fs::read_to_string(task.join("schedstat")).unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

/// Fails when the console's thread goes on working, which takes much of the time even on a busy machine.
fn assert_sleeps(guest: &Guest) {
    std::thread::sleep(A_WHILE);
    let before = processor_time(guest);
    std::thread::sleep(Duration::from_millis(300));
    let used = processor_time(guest) - before;
    assert!(used < Duration::from_millis(5), "the console does not sleep, it used {used:?}");
}

impl Guest {
    /// Sets the device up and all of its ports, and opens none.
    fn boot(ports: Vec<Port>) -> Self {
        Self::boot_with(ports, |console| console)
    }

    fn boot_with(ports: Vec<Port>, options: impl FnOnce(Console) -> Console) -> Self {
        let names: Vec<String> = ports.iter().map(|port| port.name.clone()).collect();
        static BOOTED: AtomicUsize = AtomicUsize::new(0);
        let name = format!("console{}", BOOTED.fetch_add(1, Ordering::Relaxed));
        let mut guest = Self(Driver::ready(options(Console::new(&name, ports))));
        guest.start(&names, true);
        guest
    }

    fn start(&mut self, names: &[String], host_open: bool) {
        for _ in 0..4 {
            self.0.add(CONTROL_RECEIVE_QUEUE, &[], &[PAGE]);
        }
        self.0.kick(CONTROL_RECEIVE_QUEUE);
        self.say(u32::MAX, READY, 1);
        for (port, _) in (0..).zip(names) {
            assert_eq!(self.hear(), (port, ADD, 1, String::new()));
        }
        for (port, name) in (0..).zip(names) {
            for _ in 0..4 {
                self.give(port as usize, PAGE);
            }
            self.say(port, PORT_READY, 1);
            assert_eq!(self.hear(), (port, NAME, 1, name.clone()));
            assert_eq!(self.hear(), (port, OPEN, u16::from(host_open), String::new()));
        }
    }

    fn say(&mut self, port: u32, event: u16, value: u16) {
        let message = [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
        self.0.request(CONTROL_TRANSMIT_QUEUE, &[&message], &[]);
    }

    fn hear(&mut self) -> Message {
        let used = self.0.wait_used(CONTROL_RECEIVE_QUEUE);
        self.0.add(CONTROL_RECEIVE_QUEUE, &[], &[PAGE]);
        self.0.kick(CONTROL_RECEIVE_QUEUE);
        let (fixed, name) = used.bytes.split_first_chunk::<8>().expect("a whole message");
        let [p0, p1, p2, p3, e0, e1, v0, v1] = *fixed;
        let port = u32::from_le_bytes([p0, p1, p2, p3]);
        let name = String::from_utf8(name.to_vec()).unwrap();
        (port, u16::from_le_bytes([e0, e1]), u16::from_le_bytes([v0, v1]), name)
    }

    fn open(&mut self, port: u32) {
        self.say(port, OPEN, 1);
    }

    fn give(&mut self, port: usize, room: u32) {
        self.0.add(receive_queue(port), &[], &[room]);
        self.0.kick(receive_queue(port));
    }

    fn receive(&mut self, port: usize) -> Vec<u8> {
        let used = self.0.wait_used(receive_queue(port));
        self.give(port, PAGE);
        used.bytes
    }

    /// Receives this many bytes.
    fn receive_exact(&mut self, port: usize, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            bytes.extend(self.receive(port));
        }
        bytes
    }

    fn received_now(&mut self, port: usize) -> Option<Used> {
        self.0.used(receive_queue(port))
    }

    fn send(&mut self, port: usize, bytes: &[u8]) {
        self.0.add(receive_queue(port) + 1, &[bytes], &[]);
        self.0.kick(receive_queue(port) + 1);
    }

    fn sent(&mut self, port: usize) -> Used {
        self.0.wait_used(receive_queue(port) + 1)
    }

    fn sent_now(&mut self, port: usize) -> Option<Used> {
        self.0.used(receive_queue(port) + 1)
    }
}

fn input(name: &str) -> (Port, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    (Port { input: Some(reader.into()), ..Port::new(name) }, writer)
}

fn output(name: &str) -> (Port, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    (Port { output: Some(writer.into()), ..Port::new(name) }, reader)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from((n * 7 + n / 253) % 256).unwrap()).collect()
}

fn fills_until_full(pipe: &OwnedFd) -> usize {
    let mut filled = 0;
    loop {
        let mut fds = [rustix::event::PollFd::new(pipe, PollFlags::OUT)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut fds, Some(&now)).unwrap() == 0 {
            return filled;
        }
        filled += rustix::io::write(pipe, &[0xee; CHUNK]).unwrap();
    }
}

#[test]
fn queues_and_ports_are_numbered_as_the_specification_says() {
    let queues: Vec<Role> = (0..8).map(role).collect();
    let port = |index| [Role::Port(index, Direction::Input), Role::Port(index, Direction::Output)];
    assert_eq!(queues[..2], port(0));
    assert_eq!(queues[2..4], [Role::ControlReceive, Role::ControlTransmit]);
    assert_eq!(queues[4..], [port(1), port(2)].concat());
    for index in 0..9 {
        assert_eq!(role(receive_queue(index)), Role::Port(index, Direction::Input));
    }
    assert_eq!(Console::new("console", Vec::new()).queue_sizes().len(), 4);
}

#[test]
fn the_driver_learns_of_every_port() {
    let ((first, _keep), (second, _too)) = (input("stdin"), output("stdout"));
    let mut guest = Guest::boot(vec![first, second]);
    let mut config = [0; 12];
    guest.0.transport.read(0x100, &mut config);
    assert_eq!(config, [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    // A driver that starts anew hears it all again.
    guest.0.probe(u64::MAX);
    guest.start(&["stdin".into(), "stdout".into()], true);
}

#[test]
fn input_arrives_unchanged_and_then_ends() {
    let (port, mut writer) = input("stdin");
    let mut guest = Guest::boot(vec![port]);
    guest.open(0);
    let data = pattern(1 << 20);
    let sent = data.clone();
    let host = std::thread::spawn(move || writer.write_all(&sent));
    assert!(guest.receive_exact(0, data.len()) == data, "the data is not the same");
    assert_eq!(guest.hear(), (0, OPEN, 0, String::new()));
    assert!(guest.received_now(0).is_none());
    host.join().unwrap().unwrap();
    // Closed for good, also for a driver that starts anew.
    guest.0.probe(u64::MAX);
    guest.start(&["stdin".into()], false);
}

#[test]
fn input_stays_with_the_host_until_the_guest_opens_the_port_and_gives_buffers() {
    let (port, mut writer) = input("stdin");
    let kept = port.input.as_ref().unwrap().try_clone().unwrap();
    let mut guest = Guest::boot(vec![port]);
    writer.write_all(b"early").unwrap();
    std::thread::sleep(A_WHILE);
    assert_eq!(ioctl_fionread(&kept).unwrap(), 5);
    guest.open(0);
    assert_eq!(guest.receive(0), b"early");
    guest.say(0, OPEN, 0);
    writer.write_all(b"late").unwrap();
    assert_sleeps(&guest);
    assert_eq!(ioctl_fionread(&kept).unwrap(), 4);
    guest.open(0);
    assert_eq!(guest.receive(0), b"late");
}

#[test]
fn files_and_the_null_device_are_input_too() {
    let mut file = tempfile::tempfile().unwrap();
    let data = pattern(3 * CHUNK + 17);
    file.write_all(&data).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let null = File::open("/dev/null").unwrap();
    let ports = [OwnedFd::from(file), null.into()].map(|input| Port { input: Some(input), ..Port::new("stdin") });
    let mut guest = Guest::boot(ports.into());
    guest.open(0);
    assert_eq!(guest.receive_exact(0, data.len()), data);
    assert_eq!(guest.hear(), (0, OPEN, 0, String::new()));
    guest.open(1);
    assert_eq!(guest.hear(), (1, OPEN, 0, String::new()));
    assert_sleeps(&guest);
}

#[test]
fn output_arrives_unchanged_and_apart() {
    let ((out, mut from_out), (err, mut from_err)) = (output("stdout"), output("stderr"));
    let mut guest = Guest::boot(vec![out, err]);
    let data = pattern(1 << 20);
    let expected = data.clone();
    let host = std::thread::spawn(move || {
        let mut got = vec![0; expected.len()];
        from_out.read_exact(&mut got).unwrap();
        assert!(got == expected, "the data is not the same");
    });
    for piece in data.chunks(5000) {
        guest.send(0, piece);
        guest.sent(0);
    }
    guest.send(1, b"error");
    guest.sent(1);
    host.join().unwrap();
    let mut got = [0; 5];
    from_err.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"error");
}

#[test]
fn a_slow_reader_stalls_its_own_port_only() {
    let ((out, mut from_out), (err, mut from_err)) = (output("stdout"), output("stderr"));
    let filled = fills_until_full(out.output.as_ref().unwrap());
    let mut guest = Guest::boot(vec![out, err]);
    guest.send(0, b"waits");
    guest.send(0, b" in order");
    guest.send(1, b"goes");
    guest.sent(1);
    let mut got = [0; 4];
    from_err.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"goes");
    assert_sleeps(&guest);
    assert!(guest.sent_now(0).is_none(), "given back before it was written");
    from_out.read_exact(&mut vec![0; filled]).unwrap();
    guest.sent(0);
    guest.sent(0);
    let mut got = [0; 14];
    from_out.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"waits in order");
}

#[test]
fn the_ordered_port_waits_for_the_output_before_it() {
    let ((out, mut from_out), (control, mut from_control), (err, mut from_err)) =
        (output("stdout"), output("control"), output("stderr"));
    let filled = fills_until_full(out.output.as_ref().unwrap());
    let control_end = control.output.as_ref().unwrap().try_clone().unwrap();
    let mut guest = Guest::boot_with(vec![out, control, err], |console| console.with_ordered_port(1));
    // Nothing is ahead of the first message.
    guest.send(1, b"starts ");
    guest.sent(1);
    // The second comes after all output, of the slow port and of one that was never notified.
    guest.send(0, b"slow");
    guest.0.add(receive_queue(2) + 1, &[b"quiet"], &[]);
    guest.send(1, b"ends");
    guest.sent(2);
    assert_sleeps(&guest);
    assert!(guest.sent_now(1).is_none(), "the end is told before the output is written");
    assert_eq!(ioctl_fionread(&control_end).unwrap(), 7);
    // What comes later does not hold it up, and it does not hold up the others.
    guest.send(2, b" later");
    guest.sent(2);
    from_out.read_exact(&mut vec![0; filled]).unwrap();
    guest.sent(1);
    guest.sent(0);
    let mut texts = [vec![0; 4], vec![0; 11], vec![0; 11]];
    from_out.read_exact(&mut texts[0]).unwrap();
    from_control.read_exact(&mut texts[1]).unwrap();
    from_err.read_exact(&mut texts[2]).unwrap();
    assert_eq!(texts, [&b"slow"[..], b"starts ends", b"quiet later"]);
}

#[test]
fn the_ordered_port_goes_on_when_the_reader_of_other_output_leaves() {
    let ((out, from_out), (control, mut from_control)) = (output("stdout"), output("control"));
    fills_until_full(out.output.as_ref().unwrap());
    let mut guest = Guest::boot_with(vec![out, control], |console| console.with_ordered_port(1));
    guest.send(0, b"slow");
    guest.send(1, b"ends");
    std::thread::sleep(A_WHILE);
    assert!(guest.sent_now(1).is_none());
    drop(from_out);
    guest.sent(1);
    let mut text = [0; 4];
    from_control.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"ends");
    assert_eq!(guest.hear(), (0, OPEN, 0, String::new()));
}

#[test]
fn a_reader_that_left_closes_the_port_and_output_vanishes() {
    let (out, reader) = output("stdout");
    let cut_off = out.cut_off.clone();
    let mut guest = Guest::boot(vec![out]);
    drop(reader);
    guest.send(0, b"nobody reads this");
    guest.sent(0);
    assert_eq!(guest.hear(), (0, OPEN, 0, String::new()));
    guest.send(0, b"nor this");
    guest.sent(0);
    assert!(cut_off.error().is_none(), "nobody wants it");
}

#[test]
fn a_host_that_takes_no_more_is_told_with_its_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let out = Port { output: Some(full.into()), ..Port::new("stdout") };
    let cut_off = out.cut_off.clone();
    let mut guest = Guest::boot(vec![out]);
    guest.send(0, b"lost");
    guest.sent(0);
    assert_eq!(guest.hear(), (0, OPEN, 0, String::new()));
    assert_eq!(cut_off.error().unwrap().kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_port_may_go_both_ways_and_outlives_its_input() {
    let ((there, mut writer), (back, mut reader)) = (input("control"), output(""));
    let mut guest = Guest::boot(vec![Port { output: back.output, ..there }]);
    guest.open(0);
    writer.write_all(b"question").unwrap();
    assert_eq!(guest.receive(0), b"question");
    drop(writer);
    assert_eq!(guest.hear(), (0, OPEN, 0, String::new()));
    guest.send(0, b"answer");
    guest.sent(0);
    let mut got = [0; 6];
    reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"answer");
}

#[test]
fn the_descriptors_of_the_host_are_not_made_nonblocking() {
    let ((there, mut writer), (back, mut reader)) = (input("both"), output(""));
    let port = Port { output: back.output, ..there };
    let kept = [&port.input, &port.output].map(|fd| fd.as_ref().unwrap().try_clone().unwrap());
    let mut guest = Guest::boot(vec![port]);
    guest.open(0);
    writer.write_all(b"x").unwrap();
    assert_eq!(guest.receive(0), b"x");
    guest.send(0, b"y");
    guest.sent(0);
    reader.read_exact(&mut [0]).unwrap();
    for fd in kept {
        assert!(!fcntl_getfl(&fd).unwrap().contains(OFlags::NONBLOCK));
    }
}

#[test]
fn a_port_without_descriptors_takes_output_and_gives_no_input() {
    let mut guest = Guest::boot(vec![Port::new("none")]);
    guest.open(0);
    guest.send(0, b"lost");
    guest.sent(0);
    assert!(guest.received_now(0).is_none());
}

#[test]
fn receive_buffers_without_room_come_back_empty() {
    let (port, mut writer) = input("stdin");
    let mut guest = Guest::boot(vec![port]);
    guest.open(0);
    for piece in [b"one", b"two", b"six", b"ten"] {
        writer.write_all(piece).unwrap();
        let used = guest.0.wait_used(0);
        assert_eq!(used.bytes, piece);
    }
    guest.0.add(0, &[b"readable only"], &[]);
    guest.give(0, 2);
    writer.write_all(b"end").unwrap();
    assert_eq!(guest.receive(0), b"");
    assert_eq!(guest.receive(0), b"en");
    assert_eq!(guest.receive(0), b"d");
}

#[test]
fn control_messages_that_mean_nothing_are_ignored() {
    let (port, mut writer) = input("stdin");
    let mut guest = Guest::boot(vec![port]);
    guest.0.request(CONTROL_TRANSMIT_QUEUE, &[b"short"], &[]);
    guest.0.request(CONTROL_TRANSMIT_QUEUE, &[], &[64]);
    for (port, event) in [(1, OPEN), (u32::MAX, PORT_READY), (0, 999), (0, NAME), (0, ADD)] {
        guest.say(port, event, 1);
    }
    guest.say(0, PORT_READY, 0);
    guest.say(u32::MAX, READY, 0);
    guest.open(0);
    writer.write_all(b"alive").unwrap();
    assert_eq!(guest.receive(0), b"alive");
}

#[test]
fn a_control_buffer_too_small_needs_a_reset() {
    let (port, _writer) = input("stdin");
    let mut guest = Guest(Driver::ready(Console::new("console", vec![port])));
    guest.0.add(CONTROL_RECEIVE_QUEUE, &[], &[7]);
    guest.0.kick(CONTROL_RECEIVE_QUEUE);
    guest.say(u32::MAX, READY, 1);
    guest.0.wait_needs_reset();
    guest.0.probe(u64::MAX);
    guest.start(&["stdin".into()], true);
}

#[test]
fn a_receive_buffer_outside_of_ram_needs_a_reset() {
    let (port, mut writer) = input("stdin");
    let mut guest = Guest(Driver::ready(Console::new("console", vec![port])));
    guest.0.write_descriptor(0, 0, (END_OF_RAM - 1, 2, WRITE, 0));
    guest.0.publish(0, 0);
    guest.0.kick(0);
    guest.open(0);
    writer.write_all(b"??").unwrap();
    guest.0.wait_needs_reset();
}

#[test]
fn a_reset_does_not_wait_for_a_slow_reader() {
    let (out, mut reader) = output("stdout");
    let filled = fills_until_full(out.output.as_ref().unwrap());
    let mut guest = Guest::boot(vec![out]);
    guest.send(0, b"forgotten by the reset");
    std::thread::sleep(A_WHILE);
    let start = Instant::now();
    guest.0.probe(u64::MAX);
    assert!(start.elapsed() < PATIENCE / 4);
    guest.start(&["stdout".into()], true);
    reader.read_exact(&mut vec![0; filled]).unwrap();
    guest.send(0, b"new");
    guest.sent(0);
    let mut got = [0; 3];
    reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"new");
}
