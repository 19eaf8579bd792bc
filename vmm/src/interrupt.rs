//! How a device raises its interrupt line.

/// One edge-triggered interrupt line of a device: an input pin of the IOAPIC in the machine, a recorder in tests.
pub trait InterruptLine: Send + Sync + std::fmt::Debug {
    /// Raises the line once (one rising edge). Never blocks.
    fn pulse(&self);
}
