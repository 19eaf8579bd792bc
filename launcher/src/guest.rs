//! What the guest is given: its files, its kernel's command line, its first program's orders.

pub(crate) mod cmdline;
pub(crate) mod command;
pub(crate) mod initramfs;
pub(crate) mod shares;
