//! One run of a machine: from its start to the exit status.

pub(crate) mod console;
pub(crate) mod control;
pub(crate) mod ending;
pub(crate) mod session;
pub(crate) mod signals;
pub(crate) mod streams;
pub(crate) mod supervision;
pub(crate) mod tail;
pub(crate) mod terminal;
