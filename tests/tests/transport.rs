//! The conformance suite for each transport. Over RDMA it runs in a testbed node, as this machine may have no device: what needs one is ignored
//! here and run there, by this same program.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what connects the ranks is beside the test functions")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Segment, Transport, WordSegment};
use vincs_transport_tcp::endpoint::{TcpTransport, Timing};
use vincs_transport_tcp::fabric::{CONNECT_TIME, FabricConfig, connect};
use vincs_transport_tcp::listener::Listener;
use vincs_transport_tcp::secret::{MachineId, Secret};

#[path = "transport/rdma/mod.rs"]
mod rdma;

/// For each channel class of a rank the memory that other ranks reach.
type Segments = Vec<Option<Arc<dyn Segment>>>;

/// Connects ranks that listen at this address, each on a thread of its own as if it were a process, and makes something of the endpoints of each.
fn connected<T: Send + 'static>(
    address: IpAddr,
    segments: Vec<Segments>,
    make: impl Fn(Rank, Vec<TcpTransport>) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let bind = |_: &Segments| Listener::bind(SocketAddr::from((address, 0))).unwrap();
    let listeners: Vec<_> = segments.iter().map(bind).collect();
    let addresses: Vec<_> = listeners.iter().map(Listener::address).collect();
    let (machine, secret) = (MachineId::random().unwrap(), Secret::random().unwrap());
    let make = Arc::new(make);
    let start = |(rank, (listener, segments)): (u16, (Listener, Segments))| {
        let config = FabricConfig {
            rank: Rank(rank),
            addresses: addresses.clone(),
            machine,
            secret: secret.clone(),
            segments,
            connect_time: CONNECT_TIME,
            timing: Timing::default(),
        };
        let make = Arc::clone(&make);
        thread::spawn(move || make(config.rank, connect(&config, listener).unwrap()))
    };
    let threads: Vec<_> = (0..).zip(listeners.into_iter().zip(segments)).map(start).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn boxed<T: Transport + 'static>(ends: Vec<T>) -> Vec<Box<dyn Transport>> {
    ends.into_iter().map(|end| Box::new(end) as Box<dyn Transport>).collect()
}

/// Over loopback.
fn tcp(segments: &[Vec<Arc<WordSegment>>]) -> Vec<Vec<Box<dyn Transport>>> {
    let segment = |segment: &Arc<WordSegment>| Some(Arc::clone(segment) as Arc<dyn Segment>);
    let segments = segments.iter().map(|classes| classes.iter().map(segment).collect()).collect();
    connected(Ipv4Addr::LOCALHOST.into(), segments, |_, ends| boxed(ends))
}

mod over_tcp {
    vincs_tests::transport_conformance!(super::tcp);
}

mod over_rxe {
    vincs_tests::transport_conformance!(
        #[ignore = "needs the device of a testbed node; rdma::the_suite_passes_over_rxe runs it there"]
        super::rdma::rxe
    );
}

mod over_siw {
    vincs_tests::transport_conformance!(
        #[ignore = "needs the device of a testbed node; rdma::the_suite_passes_over_siw runs it there"]
        super::rdma::siw
    );
}
