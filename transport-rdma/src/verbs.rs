//! A thin safe layer over libibverbs, and over librdmacm for iWARP devices: the only module of this crate with unsafe code.
//!
//! Each object owns its object of the library and keeps alive what that needs: a [`queue_pair::SendQueue`] the queue pair, which keeps its
//! protection domain and completion queue, which keep the open device. So whoever drops things in whatever order has them destroyed in the
//! right one. The device [counts](objects::Objects) them, and what the library or the kernel refused to destroy; so does a
//! [connection manager](manager::Manager).
//!
//! Rules for unsafe code here:
//! - A pointer of the library's is in one struct only, which is made from a successful call and whose drop is the only one to destroy it.
//! - Memory that a NIC may touch is behind a [`memory::Buffer`]. A range of it is used through the one [`memory::Claim`] of that range;
//!   a queue keeps the claims of what it was given until the NIC has said that it is done with them, or the queue pair is destroyed. On iWARP
//!   this rests on the peers, too, for memory into which they were asked to write what is read of them ([`memory::Access::Reads`]).
//! - Verbs calls may be made from any thread at any time (ibv_post_send(3), ibv_poll_cq(3)); structs are Send and Sync for that reason alone.

#![expect(unsafe_code, reason = "foreign functions")]

use std::io;

pub mod completion;
pub mod counts;
pub mod device;
mod interfaces;
pub mod manager;
pub mod memory;
pub mod objects;
pub mod queue_pair;

/// A call of the verbs library that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call} on {device} failed: {cause}{advice}")]
pub struct VerbsError {
    /// Its name.
    pub call: &'static str,
    /// Name of the device.
    pub device: String,
    /// What the system said.
    #[source]
    pub cause: io::Error,
    /// What to do about it, if that is known.
    pub advice: String,
}

impl VerbsError {
    /// Of a call that has set errno.
    fn last(call: &'static str, device: &str) -> Self {
        Self { call, device: device.to_owned(), cause: io::Error::last_os_error(), advice: String::new() }
    }

    /// Of a call that returns an error number; nothing if that is none.
    fn check(call: &'static str, device: &str, code: i32) -> Result<(), Self> {
        if code == 0 {
            return Ok(());
        }
        // Some providers return -1 and set errno, others the number, a few its negative.
        let cause = match code {
            -1 => io::Error::last_os_error(),
            code => io::Error::from_raw_os_error(code.saturating_abs()),
        };
        Err(Self { call, device: device.to_owned(), cause, advice: String::new() })
    }

    /// Of a call that was not made, as this object for it belongs elsewhere.
    fn mixed(call: &'static str, device: &str, what: &str, other: &str) -> Self {
        let (cause, advice) = (io::ErrorKind::InvalidInput.into(), format!("; its {what}, on {other}"));
        Self { call, device: device.to_owned(), cause, advice }
    }

    /// Of a call that found another device than it was meant for.
    pub(crate) fn elsewhere(call: &'static str, device: &str, other: &str) -> Self {
        let advice = format!("; the connection manager uses {other}: leave one RDMA device on its network interface");
        Self { call, device: device.to_owned(), cause: io::ErrorKind::AddrNotAvailable.into(), advice }
    }
}

/// C structures for which all bytes zero are a value.
///
/// # Safety
/// They are.
unsafe trait Plain: Sized {
    fn zeroed() -> Self {
        // SAFETY: who implements the trait promises that zeroes are a value.
        unsafe { std::mem::zeroed() }
    }
}

// SAFETY: numbers only.
unsafe impl Plain for rdma_sys::ibv_device_attr {}
// SAFETY: numbers only.
unsafe impl Plain for rdma_sys::ibv_port_attr {}
// SAFETY: numbers only.
unsafe impl Plain for rdma_sys::ibv_gid_entry {}
// SAFETY: numbers only.
unsafe impl Plain for rdma_sys::ibv_qp_attr {}
// SAFETY: numbers and raw pointers only.
unsafe impl Plain for rdma_sys::ibv_qp_init_attr {}
// SAFETY: numbers and raw pointers only.
unsafe impl Plain for rdma_sys::ibv_send_wr {}
// SAFETY: numbers only.
unsafe impl Plain for rdma_sys::ibv_wc {}
