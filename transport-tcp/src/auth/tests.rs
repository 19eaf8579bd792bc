//! Handshakes with whatever may be at the other end, over loopback.

use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use super::*;

/// Two ends of a connection; the first one has connected.
fn pair() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (there, peer) = listener.accept().unwrap();
    (here, there, peer)
}

fn soon() -> Instant {
    Instant::now() + AUTH_TIME
}

/// What the accepting side makes of what `stranger` does.
fn accept_from(stranger: impl FnOnce(TcpStream) + Send, time: Duration) -> AuthError {
    let (here, there, peer) = pair();
    thread::scope(|scope| {
        scope.spawn(|| stranger(here));
        let error = Authenticated::accept(there, peer, &Secret::random().unwrap(), Instant::now() + time).unwrap_err();
        assert_eq!(error.peer, peer);
        error
    })
}

/// What the connecting side makes of what `stranger` does.
fn connect_to(stranger: impl FnOnce(TcpStream) + Send, time: Duration) -> AuthError {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| stranger(listener.accept().unwrap().0));
        let error = Authenticated::connect(address, &Secret::random().unwrap(), Instant::now() + time).unwrap_err();
        assert_eq!(error.peer, address);
        error
    })
}

/// Everything until the end. A reset is an end too.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _: io::Result<usize> = stream.read_to_end(&mut bytes);
    bytes
}

/// Two ends with these secrets.
fn shake(connects: &Secret, accepts: &Secret) -> (Result<Authenticated, AuthError>, Result<Authenticated, AuthError>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let here = scope.spawn(|| Authenticated::connect(address, connects, soon()));
        let (stream, peer) = listener.accept().unwrap();
        let there = Authenticated::accept(stream, peer, accepts, soon());
        (here.join().unwrap(), there)
    })
}

#[test]
fn two_that_know_the_secret_exchange_frames() {
    let secret = Secret::random().unwrap();
    let (here, there) = shake(&secret, &secret);
    let (mut here, mut there) = (here.unwrap(), there.unwrap());
    assert_eq!(here.peer(), there.local_address().unwrap());
    assert_eq!(there.peer(), here.local_address().unwrap());
    for frame in [&[][..], b"hello", &[7; 1000]] {
        here.write_frame(frame, soon()).unwrap();
        assert_eq!(there.read_frame(1000, soon()).unwrap(), frame);
    }
    there.write_frame(&[0; 11], soon()).unwrap();
    assert!(matches!(here.read_frame(10, soon()), Err(FrameError::TooLong { length: 11, max: 10 })));
}

#[test]
fn a_frame_that_does_not_come_or_ends_early_is_an_error() {
    let secret = Secret::random().unwrap();
    let (here, there) = shake(&secret, &secret);
    let (mut here, mut there) = (here.unwrap(), there.unwrap().into_stream().unwrap());
    assert!(matches!(here.read_frame(10, Instant::now()), Err(FrameError::TimedOut)));
    let time = Duration::from_millis(100);
    there.write_all(&[5, 0, 0, 0, 1]).unwrap();
    assert!(matches!(here.read_frame(10, Instant::now() + time), Err(FrameError::TimedOut)));
    there.write_all(&[2, 0, 0, 0, 1]).unwrap();
    drop(there);
    assert!(matches!(here.read_frame(10, soon()), Err(FrameError::Closed)));
}

#[test]
fn another_secret_is_named_at_both_ends() {
    let (here, there) = shake(&Secret::random().unwrap(), &Secret::random().unwrap());
    for error in [here.unwrap_err(), there.unwrap_err()] {
        assert!(matches!(error.cause, AuthFault::WrongSecret), "{error}");
        assert!(error.to_string().starts_with("127.0.0.1:"), "{error}");
    }
}

#[test]
fn a_stranger_gets_no_answer() {
    for says in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], b"vincs\x00t\x02"] {
        let stranger = |mut stream: TcpStream| {
            stream.write_all(says).unwrap();
            assert_eq!(rest(stream), []);
        };
        let error = accept_from(stranger, AUTH_TIME);
        assert!(matches!(error.cause, AuthFault::NotVincs), "{error}");
    }
}

#[test]
fn a_server_of_another_kind_is_told_apart_from_its_first_words() {
    let banner = |mut stream: TcpStream| {
        stream.write_all(b"SSH-2.0-other\r\n").unwrap();
        rest(stream);
    };
    let error = connect_to(banner, AUTH_TIME);
    assert!(matches!(error.cause, AuthFault::NotVincs), "{error}");
}

#[test]
fn whoever_guesses_the_proof_gets_none() {
    let stranger = |mut stream: TcpStream| {
        stream.write_all(&greeting().unwrap()).unwrap();
        stream.write_all(&[0xaa; PROOF_BYTES]).unwrap();
        let answer = rest(stream);
        assert_eq!(answer.len(), GREETING_BYTES + PROOF_BYTES);
        assert_eq!(answer[GREETING_BYTES..], [0; PROOF_BYTES]);
    };
    let error = accept_from(stranger, AUTH_TIME);
    assert!(matches!(error.cause, AuthFault::WrongSecret), "{error}");
}

#[test]
fn a_proof_sent_back_proves_nothing() {
    let mirror = |mut stream: TcpStream| {
        let (mut greeting, mut proof) = ([0; GREETING_BYTES], [0; PROOF_BYTES]);
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(&greeting).unwrap();
        stream.read_exact(&mut proof).unwrap();
        stream.write_all(&proof).unwrap();
    };
    let error = connect_to(mirror, AUTH_TIME);
    assert!(matches!(error.cause, AuthFault::WrongSecret), "{error}");
}

#[test]
fn another_version_is_named_at_both_ends() {
    let mut other = greeting().unwrap();
    other[MAGIC.len()..][..4].copy_from_slice(&9_u32.to_le_bytes());
    let accepted = accept_from(
        |mut stream| {
            stream.write_all(&other).unwrap();
            let answer = rest(stream);
            assert_eq!(version(answer.first_chunk().unwrap()), Some(PROTOCOL_VERSION));
            assert_eq!(answer.len(), GREETING_BYTES);
        },
        AUTH_TIME,
    );
    let connected = connect_to(
        |mut stream| {
            stream.write_all(&other).unwrap();
            // Nothing after the greeting: no proof for another version.
            assert_eq!(rest(stream).len(), GREETING_BYTES);
        },
        AUTH_TIME,
    );
    for error in [accepted, connected] {
        assert!(matches!(error.cause, AuthFault::OtherVersion(9)), "{error}");
    }
}

#[test]
fn silence_and_a_trickle_of_bytes_are_cut_off_by_the_deadline() {
    let time = Duration::from_millis(300);
    let silent = |stream: TcpStream| drop(rest(stream));
    let trickle = |mut stream: TcpStream| {
        for byte in greeting().unwrap() {
            thread::sleep(time / 20);
            if stream.write_all(&[byte]).is_err() {
                break;
            }
        }
    };
    let start = Instant::now();
    for error in
        [accept_from(silent, time), accept_from(trickle, time), connect_to(silent, time), connect_to(trickle, time)]
    {
        assert!(matches!(error.cause, AuthFault::TimedOut), "{error}");
    }
    assert!(start.elapsed() >= 4 * time);
}

#[test]
fn one_that_hangs_up_is_told_apart() {
    for error in [accept_from(drop, AUTH_TIME), connect_to(drop, AUTH_TIME)] {
        assert!(matches!(error.cause, AuthFault::Closed), "{error}");
    }
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let error = Authenticated::connect(nobody, &Secret::random().unwrap(), soon()).unwrap_err();
    assert!(matches!(error.cause, AuthFault::Connect(_)), "{error}");
    assert!(error.to_string().contains(&nobody.to_string()), "{error}");
}
