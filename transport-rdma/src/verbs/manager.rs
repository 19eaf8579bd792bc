//! The connection manager (librdmacm), by which alone queue pairs of iWARP devices are connected: below them is a connection of TCP that the kernel
//! makes. The queue pairs themselves are made as all others, and named to it by their numbers.

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdma_sys as sys;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::VerbsError;
use super::interfaces::{interface_addresses, with_raw};
use super::objects::Objects;

/// Whom errors name that belong to no device yet.
const NOBODY: &str = "the RDMA connection manager";

/// Most bytes that come along with a request for a connection: the length is a byte.
pub const MAX_PRIVATE: usize = u8::MAX as usize;

/// Where identifiers tell what happens to them.
#[derive(Debug)]
pub struct Manager {
    pointer: NonNull<sys::rdma_event_channel>,
    objects: Arc<Objects>,
}

// SAFETY: calls on a channel may be made from any thread.
unsafe impl Send for Manager {}
// SAFETY: as above.
unsafe impl Sync for Manager {}

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: the pointer is of rdma_create_event_channel and destroyed here only; its identifiers kept this alive and are gone.
        unsafe { sys::rdma_destroy_event_channel(self.pointer.as_ptr()) }
        // The call returns nothing.
        self.objects.closed("rdma_destroy_event_channel", 0);
    }
}

/// How many reads a connection has under way at once: of the other end that this one serves, and of this one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reads {
    /// Served here.
    pub served: u8,
    /// Asked from here.
    pub asked: u8,
}

/// What has happened to an identifier.
#[derive(Debug)]
pub enum News {
    /// The other end's address is known.
    Address,
    /// The way to it is known.
    Route,
    /// Somebody wants to be connected.
    Request {
        /// The new connection, to be accepted or rejected.
        new: Identifier,
        /// What came along.
        private: Vec<u8>,
        /// What the other end wants to have served, and serves.
        reads: Reads,
    },
    /// It is connected.
    Established,
    /// It will not be connected, or is not any more; why in words.
    Failed(String),
    /// Nothing of interest here.
    Other,
}

/// Something of the connection manager's.
#[derive(Debug)]
pub struct Event {
    /// Of which identifier, by its [`Identifier::number`]; for a request, that of the listener.
    pub number: usize,
    /// What.
    pub news: News,
}

impl Manager {
    /// One whose events are asked for without waiting.
    ///
    /// # Errors
    /// The kernel has no connection manager for user space.
    pub fn new() -> Result<Arc<Self>, VerbsError> {
        // SAFETY: it takes nothing.
        let pointer = unsafe { sys::rdma_create_event_channel() };
        let pointer = NonNull::new(pointer).ok_or_else(|| {
            let advice = "; load rdma_ucm, without which iWARP devices cannot be connected".to_owned();
            VerbsError { advice, ..VerbsError::last("rdma_create_event_channel", NOBODY) }
        })?;
        let objects = Arc::new(Objects::default());
        objects.made();
        let manager = Self { pointer, objects };
        let failed = |error: rustix::io::Errno| VerbsError {
            call: "fcntl of an event channel",
            device: NOBODY.to_owned(),
            cause: error.into(),
            advice: String::new(),
        };
        let flags = fcntl_getfl(manager.fd()).map_err(failed)?;
        fcntl_setfl(manager.fd(), flags | OFlags::NONBLOCK).map_err(failed)?;
        Ok(Arc::new(manager))
    }

    /// How many objects there are of it: identifiers, and itself.
    #[must_use]
    pub fn objects(&self) -> &Arc<Objects> {
        &self.objects
    }

    /// Readable when there is an event.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the structure lives as long as the channel.
        let fd = unsafe { self.pointer.as_ref() }.fd;
        // SAFETY: open as long as the channel.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// The next event, if there is one.
    ///
    /// # Errors
    /// The channel is broken.
    pub fn next(self: &Arc<Self>) -> Result<Option<Event>, VerbsError> {
        let mut pointer = ptr::null_mut();
        // SAFETY: the channel is there and does not block; the argument is where the event goes.
        let code = unsafe { sys::rdma_get_cm_event(self.pointer.as_ptr(), &raw mut pointer) };
        let Some(event) = NonNull::new(pointer).filter(|_| code == 0) else {
            let error = VerbsError::last("rdma_get_cm_event", NOBODY);
            return if error.cause.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        };
        // SAFETY: the event is the caller's until it is acknowledged, below.
        let told = self.read(unsafe { event.as_ref() });
        // SAFETY: acknowledged once, and not looked at any more.
        let code = unsafe { sys::rdma_ack_cm_event(event.as_ptr()) };
        VerbsError::check("rdma_ack_cm_event", NOBODY, code)?;
        Ok(Some(told))
    }

    fn read(self: &Arc<Self>, event: &sys::rdma_cm_event) -> Event {
        use sys::rdma_cm_event_type as kind;

        let news = match event.event {
            kind::RDMA_CM_EVENT_ADDR_RESOLVED => News::Address,
            kind::RDMA_CM_EVENT_ROUTE_RESOLVED => News::Route,
            kind::RDMA_CM_EVENT_ESTABLISHED => News::Established,
            kind::RDMA_CM_EVENT_CONNECT_REQUEST => return self.request(event),
            kind::RDMA_CM_EVENT_ADDR_ERROR
            | kind::RDMA_CM_EVENT_ROUTE_ERROR
            | kind::RDMA_CM_EVENT_CONNECT_ERROR
            | kind::RDMA_CM_EVENT_UNREACHABLE
            | kind::RDMA_CM_EVENT_REJECTED
            | kind::RDMA_CM_EVENT_DISCONNECTED
            | kind::RDMA_CM_EVENT_DEVICE_REMOVAL => News::Failed(words(event)),
            _ => News::Other,
        };
        Event { number: event.id.addr(), news }
    }

    fn request(self: &Arc<Self>, event: &sys::rdma_cm_event) -> Event {
        let number = event.listen_id.addr();
        let Some(pointer) = NonNull::new(event.id) else { return Event { number, news: News::Other } };
        let new = Identifier::made(self, pointer);
        // SAFETY: a request has this part of the union.
        let asked = unsafe { event.param.conn };
        let bytes: *const u8 = asked.private_data.cast();
        let private = if bytes.is_null() {
            Vec::new()
        } else {
            // SAFETY: so many bytes that belong to the event, which is not acknowledged yet.
            unsafe { slice::from_raw_parts(bytes, asked.private_data_len.into()) }.to_vec()
        };
        let reads = Reads { served: asked.responder_resources, asked: asked.initiator_depth };
        Event { number, news: News::Request { new, private, reads } }
    }
}

/// An event in the library's words, with its status.
fn words(event: &sys::rdma_cm_event) -> String {
    // SAFETY: the call takes any number.
    let words = unsafe { sys::rdma_event_str(event.event) };
    if words.is_null() {
        return format!("event {}, status {}", event.event, event.status);
    }
    // SAFETY: a constant string of the library's.
    let words = unsafe { CStr::from_ptr(words) }.to_string_lossy();
    match event.status {
        0 => words.into_owned(),
        // A negative error number, or a reason of the other end's.
        status if status < 0 => format!("{words}: {}", io::Error::from_raw_os_error(status.saturating_abs())),
        status => format!("{words}, status {status}"),
    }
}

/// A connection, or a listener for some. A connection lasts no longer than it.
#[derive(Debug)]
pub struct Identifier {
    pointer: NonNull<sys::rdma_cm_id>,
    /// As long as the identifier lives.
    manager: Arc<Manager>,
}

// SAFETY: calls on an identifier may be made from any thread.
unsafe impl Send for Identifier {}
// SAFETY: as above.
unsafe impl Sync for Identifier {}

impl Drop for Identifier {
    fn drop(&mut self) {
        // SAFETY: the pointer is of rdma_create_id or of a request, and destroyed here only; all its events were acknowledged when they were taken.
        let code = unsafe { sys::rdma_destroy_id(self.pointer.as_ptr()) };
        self.manager.objects.destroyed("rdma_destroy_id", code);
    }
}

impl Identifier {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has no more.
    pub fn new(manager: &Arc<Manager>) -> Result<Self, VerbsError> {
        let mut pointer = ptr::null_mut();
        let space = sys::rdma_port_space::RDMA_PS_TCP;
        // SAFETY: the channel is there; the argument is where the identifier goes.
        let code = unsafe { sys::rdma_create_id(manager.pointer.as_ptr(), &raw mut pointer, ptr::null_mut(), space) };
        VerbsError::check("rdma_create_id", NOBODY, code)?;
        let pointer = NonNull::new(pointer).ok_or_else(|| VerbsError::last("rdma_create_id", NOBODY))?;
        Ok(Self::made(manager, pointer))
    }

    /// One that the library has made on the manager's channel.
    fn made(manager: &Arc<Manager>, pointer: NonNull<sys::rdma_cm_id>) -> Self {
        manager.objects.made();
        Self { pointer, manager: Arc::clone(manager) }
    }

    /// What events call it by.
    #[must_use]
    pub fn number(&self) -> usize {
        self.pointer.addr().get()
    }

    /// The device and its port that it uses, once an address of this host or a way to another is known.
    #[must_use]
    pub fn device(&self) -> Option<(String, u8)> {
        // SAFETY: the structure lives as long as the identifier.
        let identifier = unsafe { self.pointer.as_ref() };
        let context = NonNull::new(identifier.verbs)?;
        // SAFETY: an open device of the library's, which it never closes.
        let device = unsafe { context.as_ref() }.device;
        // SAFETY: a device that is open.
        let name = unsafe { sys::ibv_get_device_name(device) };
        if name.is_null() {
            return None;
        }
        // SAFETY: a string within the device.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        Some((name, identifier.port_num))
    }

    fn check(&self, call: &'static str, code: i32) -> Result<(), VerbsError> {
        let failed = VerbsError::check(call, NOBODY, code);
        failed.map_err(|error| VerbsError { device: self.device().map_or(error.device, |(name, _)| name), ..error })
    }

    /// Takes an address of this host; with it the device is known. Port 0 is one of the kernel's choice.
    ///
    /// # Errors
    /// No device has that address.
    pub fn bind(&self, address: SocketAddr) -> Result<(), VerbsError> {
        // SAFETY: the identifier is there; the call copies the address.
        let code = with_raw(address, |raw| unsafe { sys::rdma_bind_addr(self.pointer.as_ptr(), raw) });
        self.check("rdma_bind_addr", code)
    }

    /// Takes requests for connections, so many unanswered at once, at the address that it has taken.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn listen(&self, backlog: u16) -> Result<(), VerbsError> {
        // SAFETY: the identifier is there.
        let code = unsafe { sys::rdma_listen(self.pointer.as_ptr(), backlog.into()) };
        self.check("rdma_listen", code)
    }

    /// The port that it has taken.
    #[must_use]
    pub fn port(&self) -> u16 {
        // SAFETY: the identifier is there.
        u16::from_be(unsafe { sys::rdma_get_src_port(self.pointer.as_ptr()) })
    }

    /// Begins to look for the other end, from this address of this host's: [`News::Address`] follows.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resolve_address(&self, from: IpAddr, to: SocketAddr, time: Duration) -> Result<(), VerbsError> {
        let time = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        let resolve = |from, to| {
            // SAFETY: the identifier is there; the call copies both addresses.
            unsafe { sys::rdma_resolve_addr(self.pointer.as_ptr(), from, to, time) }
        };
        let code = with_raw(SocketAddr::new(from, 0), |from| with_raw(to, |to| resolve(from, to)));
        self.check("rdma_resolve_addr", code)
    }

    /// Begins to look for the way: [`News::Route`] follows.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resolve_route(&self, time: Duration) -> Result<(), VerbsError> {
        let time = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the identifier is there.
        let code = unsafe { sys::rdma_resolve_route(self.pointer.as_ptr(), time) };
        self.check("rdma_resolve_route", code)
    }

    /// Asks the other end to be connected with the queue pair of this number: [`News::Established`] follows. Of `private`, no more than
    /// [`MAX_PRIVATE`] bytes go along, which none here needs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn connect(&self, queue_pair: u32, reads: Reads, private: &[u8]) -> Result<(), VerbsError> {
        let private = private.get(..MAX_PRIVATE).unwrap_or(private);
        let mut asked = parameters(queue_pair, reads, private);
        // SAFETY: the identifier is there; the call copies what the parameters name.
        let code = unsafe { sys::rdma_connect(self.pointer.as_ptr(), &raw mut asked) };
        self.check("rdma_connect", code)
    }

    /// Takes a request, with the queue pair of this number: [`News::Established`] follows.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn accept(&self, queue_pair: u32, reads: Reads) -> Result<(), VerbsError> {
        let mut given = parameters(queue_pair, reads, &[]);
        // SAFETY: the identifier is there; the call copies what the parameters name.
        let code = unsafe { sys::rdma_accept(self.pointer.as_ptr(), &raw mut given) };
        self.check("rdma_accept", code)
    }

    /// Refuses a request.
    ///
    /// # Errors
    /// The kernel does not tell it.
    pub fn reject(&self) -> Result<(), VerbsError> {
        // SAFETY: the identifier is there, and nothing goes along.
        let code = unsafe { sys::rdma_reject(self.pointer.as_ptr(), ptr::null(), 0) };
        self.check("rdma_reject", code)
    }
}

/// Of a connection. What is of InfiniBand alone is zero.
fn parameters(queue_pair: u32, reads: Reads, private: &[u8]) -> sys::rdma_conn_param {
    sys::rdma_conn_param {
        private_data: private.as_ptr().cast(),
        private_data_len: u8::try_from(private.len()).unwrap_or(u8::MAX),
        responder_resources: reads.served,
        initiator_depth: reads.asked,
        flow_control: 0,
        retry_count: 0,
        rnr_retry_count: 0,
        srq: 0,
        qp_num: queue_pair,
    }
}

/// By which address the connection manager finds which device and port. Of several devices on one network interface it finds one alone.
///
/// # Errors
/// There is none, or this host's addresses cannot be listed.
pub fn places() -> Result<Vec<(IpAddr, String, u8)>, VerbsError> {
    let manager = Manager::new()?;
    let mut places = Vec::new();
    for address in interface_addresses()? {
        let identifier = Identifier::new(&manager)?;
        if identifier.bind(SocketAddr::new(address, 0)).is_ok()
            && let Some((device, port)) = identifier.device()
        {
            places.push((address, device, port));
        }
    }
    Ok(places)
}
