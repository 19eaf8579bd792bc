//! Wire-up with whatever can go wrong in it, over loopback.

use std::net::Ipv4Addr;

use vincs_coherence::transport::{Event, Transport};

use super::*;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Long enough for everything that works.
const LONG: Duration = Duration::from_secs(20);

/// Long enough for what fails at once, and waited out by what must fail.
const SHORT: Duration = Duration::from_millis(1500);

type Connected = Result<Vec<TcpTransport>, ConnectError>;

/// Listeners and configurations of so many ranks with so many classes, for tests to spoil.
fn machine(ranks: usize, classes: usize, connect_time: Duration) -> Vec<(FabricConfig, Listener)> {
    let listeners: Vec<_> = (0..ranks).map(|_| Listener::bind(LOOPBACK).unwrap()).collect();
    let addresses: Vec<_> = listeners.iter().map(Listener::address).collect();
    let (machine, secret) = (MachineId::random().unwrap(), Secret::random().unwrap());
    let config = |(rank, listener)| {
        let segments = (0..classes).map(|_| None).collect();
        let (addresses, secret, timing) = (addresses.clone(), secret.clone(), Timing::default());
        (FabricConfig { rank: Rank(rank), addresses, machine, secret, segments, connect_time, timing }, listener)
    };
    (0..).zip(listeners).map(config).collect()
}

fn start((config, listener): (FabricConfig, Listener)) -> thread::JoinHandle<Connected> {
    thread::spawn(move || connect(&config, listener))
}

fn start_all(ranks: Vec<(FabricConfig, Listener)>) -> Vec<Connected> {
    let threads: Vec<_> = ranks.into_iter().map(start).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// Sends a message from each rank to each other one in class 0, which must arrive and be all that happens.
fn check(ranks: &[Vec<TcpTransport>]) {
    for from in ranks {
        for to in ranks.iter().filter(|to| to[0].rank() != from[0].rank()) {
            from[0].send(to[0].rank(), b"x", &[]).unwrap();
        }
    }
    for end in ranks {
        let mut come = 0;
        let deadline = Instant::now() + LONG;
        while come < ranks.len() - 1 && Instant::now() < deadline {
            end[0].poll(&mut |event| {
                assert!(matches!(event, Event::Message { header: b"x", .. }), "{event:?}");
                come += 1;
            });
        }
        assert_eq!(come, ranks.len() - 1);
        end[0].poll(&mut |event| panic!("{event:?}"));
    }
}

#[test]
fn ranks_that_come_late_are_waited_for() {
    let mut ranks = machine(3, 2, LONG);
    let late = ranks.remove(0);
    let early: Vec<_> = ranks.into_iter().map(start).collect();
    thread::sleep(Duration::from_millis(300));
    let late = start(late);
    let ends: Vec<_> = [late].into_iter().chain(early).map(|thread| thread.join().unwrap().unwrap()).collect();
    assert_eq!(ends.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
    check(&ends);
}

#[test]
fn a_rank_shows_signs_of_life_before_it_polls() {
    let time = 2 * SHORT;
    let timing = Timing { sign_of_life: Duration::from_millis(200), silence: SHORT };
    let mut ranks = machine(2, 2, time);
    ranks.iter_mut().for_each(|(config, _)| config.timing = timing);
    let mut ends: Vec<_> = start_all(ranks).into_iter().map(Result::unwrap).collect();
    let (other, end) = (ends.pop().unwrap(), ends.pop().unwrap());
    let lost_within = |time| {
        let (start, mut lost) = (Instant::now(), None);
        while lost.is_none() && start.elapsed() < time {
            end[1].poll(&mut |event| {
                if let Event::Lost { reason, .. } = event {
                    lost = Some(reason);
                }
            });
            thread::sleep(Duration::from_millis(1));
        }
        lost
    };
    assert_eq!(lost_within(time + timing.silence), None);
    drop(other);
    assert!(!lost_within(LONG).unwrap().contains("silent"), "its signs of life hold no connection open");
}

#[test]
fn one_rank_alone_is_a_machine() {
    let ends = start_all(machine(1, 1, LONG)).remove(0).unwrap();
    assert!(!ends[0].poll(&mut |event| panic!("{event:?}")));
}

#[test]
fn a_rank_with_a_wrong_secret_is_kept_out_and_both_sides_say_so() {
    let mut ranks = machine(2, 1, SHORT);
    let address = ranks[0].1.address();
    ranks[1].0.secret = Secret::random().unwrap();
    let [here, there] = start_all(ranks).try_into().unwrap();
    let there = there.unwrap_err();
    assert!(
        matches!(&there, ConnectError::Auth { rank: Rank(0), cause } if matches!(cause.cause, AuthFault::WrongSecret))
    );
    assert!(there.to_string().starts_with(&format!("rank 0 at {address}: ")), "{there}");
    let here = here.unwrap_err();
    assert!(matches!(&here, ConnectError::Missing { rank: Rank(1), .. }), "{here}");
    assert!(
        here.to_string().contains("refused meanwhile: 127.0.0.1") && here.to_string().contains("another secret"),
        "{here}"
    );
}

#[test]
fn another_machine_with_the_same_secret_is_refused() {
    let mut ranks = machine(2, 1, SHORT);
    ranks[1].0.machine = MachineId::random().unwrap();
    let (mine, other) = (ranks[0].0.machine, ranks[1].0.machine);
    let [here, there] = start_all(ranks).try_into().unwrap();
    let text = format!("this is rank 0 of machine {mine}, not of machine {other}");
    let there = there.unwrap_err();
    assert!(matches!(&there, ConnectError::Refused { rank: Rank(0), reason, .. } if *reason == text), "{there}");
    assert!(here.unwrap_err().to_string().contains(&text));
}

#[test]
fn a_rank_that_never_comes_is_named_with_its_address() {
    let mut ranks = machine(3, 1, SHORT);
    let absent = ranks.pop().unwrap().1;
    let start = Instant::now();
    for result in start_all(ranks) {
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), format!("rank 2 at {} has not connected within {SHORT:?}", absent.address()));
    }
    assert!(start.elapsed() >= SHORT);
}

#[test]
fn a_rank_that_does_not_listen_is_named_at_once() {
    let mut ranks = machine(2, 1, LONG);
    let (config, listener) = ranks.pop().unwrap();
    let gone = ranks.pop().unwrap().1;
    let address = gone.address();
    drop(gone);
    let start = Instant::now();
    let error = connect(&config, listener).unwrap_err();
    assert!(error.to_string().starts_with(&format!("rank 0 at {address}: cannot connect: ")), "{error}");
    assert!(start.elapsed() < LONG / 2);
}

#[test]
fn a_rank_that_was_hung_up_on_connects_again() {
    let mut ranks = machine(2, 1, LONG);
    let real = ranks[0].1.address();
    let door = std::net::TcpListener::bind(LOOPBACK).unwrap();
    ranks[1].0.addresses[0] = door.local_addr().unwrap();
    let passing = thread::spawn(move || {
        for _ in 0..3 {
            drop(door.accept().unwrap());
        }
        let (from, to) = (door.accept().unwrap().0, TcpStream::connect(real).unwrap());
        let (mut there, mut back) = ((from.try_clone().unwrap(), to.try_clone().unwrap()), (to, from));
        thread::spawn(move || io::copy(&mut there.0, &mut there.1));
        thread::spawn(move || io::copy(&mut back.0, &mut back.1));
    });
    let ends: Vec<_> = start_all(ranks).into_iter().map(Result::unwrap).collect();
    passing.join().unwrap();
    check(&ends);
}

#[test]
fn a_rank_that_listens_but_never_answers_is_named() {
    let mut ranks = machine(2, 1, SHORT);
    let (config, listener) = ranks.pop().unwrap();
    let (_, silent) = ranks.pop().unwrap();
    let error = connect(&config, listener).unwrap_err().to_string();
    let address = silent.address();
    // Whichever of the two deadlines is noticed first.
    let expected = [
        format!("rank 0 at {address}: the other end did not prove in time to know the secret"),
        format!("rank 0 at {address} has not connected within {SHORT:?}"),
    ];
    assert!(expected.contains(&error), "{error}");
}

#[test]
fn a_second_connection_of_a_rank_and_hellos_that_are_none_change_nothing() {
    let mut ranks = machine(2, 2, LONG);
    let (config, listener) = ranks.pop().unwrap();
    let (address, secret, machine) = (config.addresses[0], config.secret.clone(), config.machine);
    let first = start(ranks.pop().unwrap());
    let deadline = Instant::now() + LONG;
    let knock = |hello: &[u8]| {
        let mut connection = Authenticated::connect(address, &secret, deadline).unwrap();
        connection.write_frame(hello, deadline).unwrap();
        let answer = connection.read_frame(MAX_REFUSAL, deadline);
        answer.map(|answer| (connection, String::from_utf8(answer).unwrap()))
    };
    for hello in [&[][..], &[0; HELLO_BYTES - 1], &[0; HELLO_BYTES + 1]] {
        assert!(matches!(knock(hello), Err(FrameError::Closed)));
    }
    let hello = Hello { machine, ranks: 2, classes: 2, class: 0, from: Rank(1), to: Rank(0) };
    // It takes the place of class 0, so the rank itself is refused there, as is whoever says the same again.
    let (_taken, answer) = knock(&hello.to_bytes()).unwrap();
    assert_eq!(answer, "");
    let text = "rank 1 is connected already for channel class 0";
    assert_eq!(knock(&hello.to_bytes()).unwrap().1, text);
    let error = connect(&config, listener).unwrap_err();
    assert!(matches!(&error, ConnectError::Refused { rank: Rank(0), reason, .. } if reason == text), "{error}");
    let (_other, answer) = knock(&Hello { class: 1, ..hello }.to_bytes()).unwrap();
    assert_eq!(answer, "");
    assert_eq!(first.join().unwrap().unwrap().len(), 2);
}

#[test]
fn strangers_before_and_after_the_wire_up_change_nothing() {
    let mut ranks = machine(3, 2, LONG);
    let late = ranks.pop().unwrap();
    let addresses = late.0.addresses.clone();
    let early: Vec<_> = ranks.into_iter().map(start).collect();
    let knock = |index: usize| {
        let mut stream = TcpStream::connect(addresses[index % 2]).unwrap();
        // Some say nothing.
        if index.is_multiple_of(3) {
            io::Write::write_all(&mut stream, &[b'?'; 4000]).unwrap();
        }
        stream
    };
    let strangers: Vec<_> = (0..60).map(knock).collect();
    let began = Instant::now();
    let late = start(late);
    let ends: Vec<_> = early.into_iter().chain([late]).map(|thread| thread.join().unwrap().unwrap()).collect();
    assert!(began.elapsed() < AUTH_TIME, "the strangers had to time out first");
    check(&ends);
    assert!(addresses.iter().all(|address| TcpStream::connect(address).is_err()), "nobody listens any more");
    drop(strangers);
    check(&ends);
}

#[test]
fn configurations_that_make_no_machine_are_refused() {
    let spoil = |change: fn(&mut FabricConfig)| {
        let (mut config, listener) = machine(2, 1, LONG).remove(0);
        change(&mut config);
        assert!(matches!(connect(&config, listener), Err(ConnectError::Config { .. })));
    };
    spoil(|config| config.rank = Rank(2));
    spoil(|config| config.addresses.clear());
    spoil(|config| config.addresses = vec![LOOPBACK; usize::from(MAX_RANKS) + 1]);
    spoil(|config| config.segments.clear());
    spoil(|config| config.segments = vec![None; MAX_CLASSES + 1]);
}
