//! What tests of the control channel hear.

use vincs_coherence::id::Rank;
use vincs_coherence::transport::{Event, Transport};

use super::message::Control;
pub(crate) use crate::test_transport::{End, Hub};

/// The messages that wait at an end.
pub(crate) fn heard(end: &End) -> Vec<(Rank, Control)> {
    let mut messages = Vec::new();
    end.poll(&mut |event| {
        if let Event::Message { from, header, body } = event {
            messages.push((from, Control::decode(header, body.len()).unwrap()));
        }
    });
    messages
}
