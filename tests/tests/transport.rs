//! The conformance suite for each transport.

#![expect(clippy::unwrap_used, reason = "what connects the ranks is beside the test functions")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Segment, Transport, WordSegment};
use vincs_transport_tcp::endpoint::Timing;
use vincs_transport_tcp::fabric::{CONNECT_TIME, FabricConfig, connect};
use vincs_transport_tcp::listener::Listener;
use vincs_transport_tcp::secret::{MachineId, Secret};

/// Connects the ranks over loopback, each on a thread of its own as if it were a process.
fn tcp(segments: &[Vec<Arc<WordSegment>>]) -> Vec<Vec<Box<dyn Transport>>> {
    let bind = |_| Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let listeners: Vec<_> = segments.iter().map(bind).collect();
    let addresses: Vec<_> = listeners.iter().map(Listener::address).collect();
    let (machine, secret) = (MachineId::random().unwrap(), Secret::random().unwrap());
    let start = |(rank, (listener, segments)): (u16, (Listener, &Vec<Arc<WordSegment>>))| {
        let segment = |segment: &Arc<WordSegment>| Some(Arc::clone(segment) as Arc<dyn Segment>);
        let config = FabricConfig {
            rank: Rank(rank),
            addresses: addresses.clone(),
            machine,
            secret: secret.clone(),
            segments: segments.iter().map(segment).collect(),
            connect_time: CONNECT_TIME,
            timing: Timing::default(),
        };
        thread::spawn(move || connect(&config, listener))
    };
    let threads: Vec<_> = (0..).zip(listeners.into_iter().zip(segments)).map(start).collect();
    let boxed = |end| Box::new(end) as Box<dyn Transport>;
    threads.into_iter().map(|thread| thread.join().unwrap().unwrap().into_iter().map(boxed).collect()).collect()
}

mod over_tcp {
    vincs_tests::transport_conformance!(super::tcp);
}
