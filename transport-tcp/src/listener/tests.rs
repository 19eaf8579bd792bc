//! Who is let in, and that strangers keep nobody out.

use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, channel};

use super::*;

/// An open listener, its address and who comes.
fn open(secret: &Secret) -> (Door, SocketAddr, Receiver<Arrival>) {
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let (address, (sender, arrived)) = (listener.address(), channel());
    // Those that come after the end of a test are not wanted.
    let door = listener.open(secret, move |arrival| drop(sender.send(arrival))).unwrap();
    (door, address, arrived)
}

#[test]
fn more_silent_strangers_than_can_wait_keep_nobody_out() {
    let secret = Secret::random().unwrap();
    let (_door, address, arrived) = open(&secret);
    let start = Instant::now();
    let strangers: Vec<_> = (0..2 * MAX_PENDING).map(|_| TcpStream::connect(address).unwrap()).collect();
    let known = thread::spawn(move || Authenticated::connect(address, &secret, start + 2 * AUTH_TIME));
    let came = loop {
        match arrived.recv_timeout(2 * AUTH_TIME).unwrap() {
            Ok(came) => break came,
            Err(error) => assert!(strangers.iter().any(|s| s.local_addr().unwrap() == error.peer), "{error}"),
        }
    };
    assert_eq!(came.peer(), known.join().unwrap().unwrap().local_address().unwrap());
    assert!(start.elapsed() < AUTH_TIME, "the strangers had to time out first: {:?}", start.elapsed());
}

#[test]
fn the_oldest_of_too_many_is_dropped() {
    let (_door, address, arrived) = open(&Secret::random().unwrap());
    let strangers: Vec<_> = (0..=MAX_PENDING).map(|_| TcpStream::connect(address).unwrap()).collect();
    let error = arrived.recv_timeout(AUTH_TIME).unwrap().unwrap_err();
    assert_eq!(error.peer, strangers[0].local_addr().unwrap());
}

#[test]
fn a_door_that_is_dropped_is_closed_at_once() {
    let (door, address, _arrived) = open(&Secret::random().unwrap());
    let _waiting = TcpStream::connect(address).unwrap();
    let start = Instant::now();
    drop(door);
    assert!(start.elapsed() < AUTH_TIME);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn an_address_in_use_is_named() {
    let first = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let error = Listener::bind(first.address()).unwrap_err();
    assert!(error.to_string().contains(&format!("cannot listen on {}", first.address())), "{error}");
}
