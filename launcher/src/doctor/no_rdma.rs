//! RDMA devices, as a vincs that is built without RDMA sees them: by their names.

use std::path::Path;

use crate::doctor::Finding;

/// Where the kernel lists RDMA devices.
const RDMA_CLASS: &str = "/sys/class/infiniband";

/// RDMA devices.
pub(super) fn devices() -> Vec<Finding> {
    vec![rdma_in(Path::new(RDMA_CLASS))]
}

fn rdma_in(class: &Path) -> Finding {
    let entries = std::fs::read_dir(class).into_iter().flatten().flatten();
    let mut devices: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    devices.sort();
    if devices.is_empty() {
        return Finding::warn("no devices", "machines of several hosts use TCP, and this vincs is built without RDMA");
    }
    Finding::warn(
        format_args!("{}, which this vincs cannot use", devices.join(", ")),
        "build it with the feature rdma of vincs-launcher",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn rdma_devices_are_listed_in_order() {
        let class = tempfile::tempdir().unwrap();
        assert_eq!(rdma_in(class.path()).level, Level::Warn);
        assert!(rdma_in(&class.path().join("absent")).text.starts_with("no devices"));
        for name in ["rxe1", "mlx5_0"] {
            std::fs::create_dir(class.path().join(name)).unwrap();
        }
        assert!(rdma_in(class.path()).text.starts_with("mlx5_0, rxe1, which"));
    }
}
