//! vincs' port to transports over RDMA verbs.
mod choose;
mod introduction;
mod stream;
mod verbs;
