//! Devices, their ports and addresses, and protection domains.

use std::ffi::CStr;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use rdma_sys as sys;
use rustix::io::Errno;

use super::objects::Objects;
use super::{Plain, VerbsError};
use crate::choose::{Gid, GidType, LinkLayer, Port};

// libibverbs has it since version 32, without a binding in rdma-sys: the entries of a device's GID tables with their types.
unsafe extern "C" {
    fn _ibv_query_gid_table(
        context: *mut sys::ibv_context,
        entries: *mut sys::ibv_gid_entry,
        max_entries: usize,
        flags: u32,
        entry_size: usize,
    ) -> isize;
}

/// `IBV_LINK_LAYER_*` of <infiniband/verbs.h>, which bindgen leaves out.
const LINK_LAYER_INFINIBAND: u8 = 1;
const LINK_LAYER_ETHERNET: u8 = 2;

/// The RDMA devices of this host.
#[derive(Debug)]
struct DeviceList {
    pointer: NonNull<*mut sys::ibv_device>,
    count: usize,
}

// SAFETY: the list is not changed after it is made.
unsafe impl Send for DeviceList {}
// SAFETY: as above.
unsafe impl Sync for DeviceList {}

impl Drop for DeviceList {
    fn drop(&mut self) {
        // SAFETY: the pointer is of ibv_get_device_list and is freed here only; devices that were opened stay open.
        unsafe { sys::ibv_free_device_list(self.pointer.as_ptr()) }
    }
}

/// An RDMA device of this host, not open.
#[derive(Clone, Debug)]
pub struct Device {
    list: Arc<DeviceList>,
    index: usize,
}

impl Device {
    fn pointer(&self) -> *mut sys::ibv_device {
        let pointer = self.list.pointer.as_ptr().wrapping_add(self.index);
        // SAFETY: `list` has chosen the index below the list's length.
        unsafe { pointer.read() }
    }

    /// The kernel's name of it.
    #[must_use]
    pub fn name(&self) -> String {
        // SAFETY: the list keeps the device.
        let name = unsafe { sys::ibv_get_device_name(self.pointer()) };
        if name.is_null() {
            return String::new();
        }
        // SAFETY: a string within the device, which the list keeps.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }

    /// Whether it speaks iWARP.
    fn is_iwarp(&self) -> bool {
        // SAFETY: the list keeps the device, whose fields do not change.
        let transport = unsafe { (*self.pointer()).transport_type };
        transport == sys::ibv_transport_type::IBV_TRANSPORT_IWARP
    }

    /// Opens it.
    ///
    /// # Errors
    /// The device is gone, or this user may not open it.
    pub fn open(&self) -> Result<Arc<Context>, VerbsError> {
        let name = self.name();
        // SAFETY: the list keeps the device.
        let pointer = unsafe { sys::ibv_open_device(self.pointer()) };
        let pointer = NonNull::new(pointer).ok_or_else(|| VerbsError::last("ibv_open_device", &name))?;
        let objects = Arc::new(Objects::default());
        objects.made();
        Ok(Arc::new(Context { pointer, name, iwarp: self.is_iwarp(), objects }))
    }
}

/// The RDMA devices of this host. A kernel without verbs has none.
///
/// # Errors
/// The list cannot be read.
pub fn list() -> Result<Vec<Device>, VerbsError> {
    let mut count = 0;
    // SAFETY: the argument is where the number goes.
    let pointer = unsafe { sys::ibv_get_device_list(&raw mut count) };
    let Some(pointer) = NonNull::new(pointer) else {
        let error = VerbsError::last("ibv_get_device_list", "this host");
        return if error.cause.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) {
            Ok(Vec::new())
        } else {
            Err(error)
        };
    };
    let list = Arc::new(DeviceList { pointer, count: usize::try_from(count).unwrap_or(0) });
    Ok((0..list.count).map(|index| Device { list: Arc::clone(&list), index }).collect())
}

/// What a device can hold and do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Queue pairs.
    pub queue_pairs: u32,
    /// Completion queues.
    pub completion_queues: u32,
    /// Work requests of one queue.
    pub work_requests: u32,
    /// Entries of a completion queue.
    pub completions: u32,
    /// Reads and atomics of other ranks that a queue pair serves at once.
    pub reads_served: u8,
    /// Reads and atomics that a queue pair has under way at once.
    pub reads_asked: u8,
    /// Its atomics are atomic among each other, by whichever of its queue pairs they come.
    pub atomics: bool,
    /// Number of ports, which are counted from 1.
    pub ports: u8,
}

impl Limits {
    /// What it lacks that one-sided operations need. iWARP has no atomics: there ranks do them for each other.
    #[must_use]
    pub fn lacks(&self, iwarp: bool) -> Option<&'static str> {
        if !self.atomics && !iwarp {
            Some("has no atomic operations on other ranks' memory")
        } else if self.reads_served == 0 {
            Some("serves no reads and atomics of other ranks")
        } else if self.reads_asked == 0 {
            Some("cannot read other ranks' memory")
        } else {
            None
        }
    }
}

/// An open device.
#[derive(Debug)]
pub struct Context {
    pointer: NonNull<sys::ibv_context>,
    name: String,
    iwarp: bool,
    objects: Arc<Objects>,
}

// SAFETY: calls on a context may be made from any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the pointer is of ibv_open_device and closed here only; what was made of it kept this alive and is gone.
        self.objects.closed("ibv_close_device", unsafe { sys::ibv_close_device(self.pointer.as_ptr()) });
    }
}

impl Context {
    /// The kernel's name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it speaks iWARP: reads and writes over TCP, without atomics, between queue pairs that only the connection manager can connect.
    #[must_use]
    pub fn is_iwarp(&self) -> bool {
        self.iwarp
    }

    /// How many objects there are of it.
    #[must_use]
    pub fn objects(&self) -> &Arc<Objects> {
        &self.objects
    }

    pub(super) fn pointer(&self) -> *mut sys::ibv_context {
        self.pointer.as_ptr()
    }

    /// What it can hold and do.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn limits(&self) -> Result<Limits, VerbsError> {
        let mut facts = sys::ibv_device_attr::zeroed();
        // SAFETY: the context is open, and the structure is the one that the call fills.
        let code = unsafe { sys::ibv_query_device(self.pointer(), &raw mut facts) };
        VerbsError::check("ibv_query_device", &self.name, code)?;
        let number = |value: i32| u32::try_from(value).unwrap_or(0);
        let byte = |value: i32| u8::try_from(value.clamp(0, u8::MAX.into())).unwrap_or(0);
        Ok(Limits {
            queue_pairs: number(facts.max_qp),
            completion_queues: number(facts.max_cq),
            work_requests: number(facts.max_qp_wr),
            completions: number(facts.max_cqe),
            reads_served: byte(facts.max_qp_rd_atom),
            reads_asked: byte(facts.max_qp_init_rd_atom),
            atomics: facts.atomic_cap != sys::ibv_atomic_cap::IBV_ATOMIC_NONE,
            ports: facts.phys_port_cnt,
        })
    }

    /// What a port is connected to, and its addresses.
    ///
    /// # Errors
    /// There is no such port, or its addresses cannot be read.
    pub fn port(&self, number: u8) -> Result<Port, VerbsError> {
        let mut facts = sys::ibv_port_attr::zeroed();
        // SAFETY: the context is open, and the structure is the one that the call fills, which is told its size.
        let code = unsafe { sys::___ibv_query_port(self.pointer(), number, &raw mut facts) };
        VerbsError::check("ibv_query_port", &self.name, code)?;
        Ok(Port {
            device: self.name.clone(),
            number,
            active: facts.state == sys::ibv_port_state::IBV_PORT_ACTIVE,
            link_layer: match facts.link_layer {
                LINK_LAYER_INFINIBAND => LinkLayer::InfiniBand,
                LINK_LAYER_ETHERNET => LinkLayer::Ethernet,
                _ => LinkLayer::Other,
            },
            mtu: u8::try_from(facts.active_mtu).unwrap_or(0),
            lid: facts.lid,
            gids: self.gids(number, usize::try_from(facts.gid_tbl_len).unwrap_or(0))?,
        })
    }

    /// The addresses of a port. The table is that of all ports, each of which has so many.
    fn gids(&self, port: u8, per_port: usize) -> Result<Vec<Gid>, VerbsError> {
        let most = per_port * usize::from(self.limits()?.ports);
        let mut entries: Vec<_> = (0..most).map(|_| sys::ibv_gid_entry::zeroed()).collect();
        // SAFETY: the context is open, and the call writes at most so many entries of this size.
        let count = unsafe {
            _ibv_query_gid_table(
                self.pointer(),
                entries.as_mut_ptr(),
                entries.len(),
                0,
                size_of::<sys::ibv_gid_entry>(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let code = i32::try_from(count).unwrap_or(-1);
            VerbsError::check("ibv_query_gid_table", &self.name, code)?;
            return Ok(Vec::new());
        };
        entries.truncate(count);
        let entries = entries.iter().filter(|entry| entry.port_num == u32::from(port));
        Ok(entries.filter_map(gid).collect())
    }
}

/// An entry of a table of addresses; nothing if its index is beyond what a queue pair can use.
fn gid(entry: &sys::ibv_gid_entry) -> Option<Gid> {
    let kind = match entry.gid_type {
        sys::IBV_GID_TYPE_ROCE_V2 => GidType::RoceV2,
        sys::IBV_GID_TYPE_ROCE_V1 => GidType::RoceV1,
        _ => GidType::InfiniBand,
    };
    // SAFETY: both views of the union are plain bytes.
    let raw = unsafe { entry.gid.raw };
    Some(Gid { index: u8::try_from(entry.gid_index).ok()?, kind, raw })
}

/// Where memory is registered and queue pairs are: they reach each other's memory within one domain only.
#[derive(Debug)]
pub struct ProtectionDomain {
    pointer: NonNull<sys::ibv_pd>,
    context: Arc<Context>,
}

// SAFETY: calls on a protection domain may be made from any thread.
unsafe impl Send for ProtectionDomain {}
// SAFETY: as above.
unsafe impl Sync for ProtectionDomain {}

impl Drop for ProtectionDomain {
    fn drop(&mut self) {
        // SAFETY: the pointer is of ibv_alloc_pd and freed here only; what was made of it kept this alive and is gone.
        self.context.objects.destroyed("ibv_dealloc_pd", unsafe { sys::ibv_dealloc_pd(self.pointer.as_ptr()) });
    }
}

impl ProtectionDomain {
    /// A new one.
    ///
    /// # Errors
    /// The device has no more.
    pub fn new(context: &Arc<Context>) -> Result<Arc<Self>, VerbsError> {
        // SAFETY: the context is open.
        let pointer = unsafe { sys::ibv_alloc_pd(context.pointer()) };
        let pointer = NonNull::new(pointer).ok_or_else(|| VerbsError::last("ibv_alloc_pd", context.name()))?;
        context.objects.made();
        Ok(Arc::new(Self { pointer, context: Arc::clone(context) }))
    }

    pub(super) fn pointer(&self) -> *mut sys::ibv_pd {
        self.pointer.as_ptr()
    }

    /// The device it is on.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

/// Whether an error says that there is a limit on locked memory.
pub(super) fn is_out_of_memory(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOMEM.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_reads_or_atomics_lacks_them() {
        let enough = Limits {
            queue_pairs: 1,
            completion_queues: 1,
            work_requests: 1,
            completions: 1,
            reads_served: 1,
            reads_asked: 1,
            atomics: true,
            ports: 1,
        };
        assert_eq!(enough.lacks(false), None);
        assert_eq!(Limits { atomics: false, ..enough }.lacks(true), None, "iWARP does without");
        for (limits, word) in [
            (Limits { atomics: false, ..enough }, "no atomic operations"),
            (Limits { reads_served: 0, ..enough }, "serves no reads"),
            (Limits { reads_asked: 0, ..enough }, "cannot read"),
        ] {
            assert!(limits.lacks(false).unwrap().contains(word), "{limits:?}");
        }
    }

    /// On this machine, whether its kernel has verbs or not.
    #[test]
    fn the_devices_of_any_host_can_be_listed() {
        for device in list().unwrap() {
            assert!(!device.name().is_empty());
        }
    }
}
