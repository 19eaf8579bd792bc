//! What machines of several hosts use: a fast network and a way to start.

use std::path::Path;

use crate::doctor::Finding;
use crate::host::on_path;

/// Where the kernel lists RDMA devices.
const RDMA_CLASS: &str = "/sys/class/infiniband";

/// RDMA devices.
pub(super) fn rdma() -> Finding {
    rdma_in(Path::new(RDMA_CLASS))
}

fn rdma_in(class: &Path) -> Finding {
    let entries = std::fs::read_dir(class).into_iter().flatten().flatten();
    let mut devices: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    devices.sort();
    if devices.is_empty() {
        return Finding::warn(
            "no devices",
            "machines of several hosts use TCP; for RDMA load the adapter's driver, or rdma_rxe",
        );
    }
    Finding::ok(devices.join(", "))
}

/// A program that starts MPI ranks.
pub(super) fn mpi() -> Finding {
    match on_path("mpirun").or_else(|| on_path("mpiexec")) {
        Some(program) => Finding::ok(program.display()),
        None => Finding::warn("no mpirun on PATH", "for machines of several hosts: install openmpi-bin or mpich"),
    }
}

/// Slurm's client.
pub(super) fn slurm() -> Finding {
    match on_path("srun") {
        Some(program) => Finding::ok(program.display()),
        None => Finding::warn(
            "no srun on PATH",
            "to run as Slurm jobs: install slurm-client, or log in to a node that has it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn rdma_devices_are_listed_in_order() {
        let class = tempfile::tempdir().unwrap();
        assert_eq!(rdma_in(class.path()).level, Level::Warn);
        assert_eq!(rdma_in(&class.path().join("absent")).level, Level::Warn);
        for name in ["rxe1", "mlx5_0"] {
            std::fs::create_dir(class.path().join(name)).unwrap();
        }
        let found = rdma_in(class.path());
        assert_eq!((found.level, found.text.as_str()), (Level::Ok, "mlx5_0, rxe1"));
    }
}
