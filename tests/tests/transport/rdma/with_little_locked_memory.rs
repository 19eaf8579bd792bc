//! With a limit of 1 MiB on locked memory, and without the right to pass it.

use std::sync::Arc;
use std::thread;

use vincs_coherence::transport::{Segment, WordSegment};
use vincs_transport_rdma::devices::{Needs, find_device};
use vincs_transport_rdma::verbs::device::ProtectionDomain;
use vincs_transport_rdma::verbs::memory::{Access, Buffer, RegisteredSegment};

use super::NODE;

#[test]
#[ignore = "needs the device of a testbed node and a limit; rdma::a_limit_on_locked_memory_is_told_with_what_is_needed runs it there"]
fn registrations_beyond_the_limit_say_how_much_they_need() {
    let domain = ProtectionDomain::new(&find_device(NODE).unwrap().context).unwrap();
    let small = Buffer::new(&domain, Access::Own, 4096, 16).unwrap();
    let segment: Arc<dyn Segment> = Arc::new(WordSegment::new(1 << 18));
    let buffer = Buffer::new(&domain, Access::Own, 4096, 512);
    let errors = [buffer.unwrap_err(), RegisteredSegment::new(&domain, &segment).unwrap_err()];
    for error in errors.map(|error| error.to_string()) {
        assert!(error.starts_with("ibv_reg_mr on rxe0 failed: "), "{error}");
        assert!(error.contains("; 2097152 bytes have to be locked"), "{error}");
        assert!(error.contains("the limit is 1048576 bytes") && error.contains("ulimit -l"), "{error}");
    }
    // What a machine needs is tried the same way.
    let needs = Needs { ranks: 2, classes: 2, segment_bytes: 64 << 20 };
    let error = needs.try_registration(&find_device(NODE).unwrap()).unwrap_err().to_string();
    assert!(error.contains(&format!("; {} bytes have to be locked", needs.bytes())), "{error}");
    // What was registered before is as it was.
    thread::spawn(move || assert!(small.claim(0, 4096).is_some())).join().unwrap();
}
