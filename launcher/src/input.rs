//! What the user gave, checked before anything is started.

pub(crate) mod disk;
pub(crate) mod machine_size;
pub(crate) mod share;
pub(crate) mod size;
