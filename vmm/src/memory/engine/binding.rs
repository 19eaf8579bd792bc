//! Which processors the service threads run on.
//!
//! A fault waits for its service thread, so that must not wait for a processor that a vCPU spins on while another one is
//! free. Each service thread gets a core of its own, with its hardware threads; the kernel places everything else around them.
//! This is a hint: where it cannot be followed, the kernel places the service threads as well.

use std::io;

use hwlocality::Topology;
use hwlocality::cpu::binding::CpuBindingFlags;
use hwlocality::cpu::cpuset::CpuSet;
use hwlocality::object::types::ObjectType;

/// Fewest cores for each service thread that is bound: with fewer, the vCPUs need its core too.
const CORES_PER_THREAD: usize = 4;

/// The cores of service threads.
#[derive(Debug)]
pub(super) struct Binding {
    topology: Topology,
    cores: Vec<CpuSet>,
}

impl Binding {
    /// Chooses cores for so many threads among those that this process may use; nothing where there are too few.
    pub(super) fn choose(threads: usize) -> io::Result<Option<Self>> {
        let topology = Topology::new().map_err(io::Error::other)?;
        let ours = topology.cpu_binding(CpuBindingFlags::PROCESS).map_err(io::Error::other)?;
        let cores: Vec<CpuSet> = topology
            .objects_with_type(ObjectType::Core)
            .filter_map(|core| core.cpuset().map(|set| set.clone_target()))
            .filter(|core| ours.includes(core))
            .collect();
        let chosen = spread(cores.len(), threads);
        let cores = chosen.into_iter().filter_map(|at| cores.get(at).cloned()).collect::<Vec<_>>();
        Ok((!cores.is_empty()).then_some(Self { topology, cores }))
    }

    /// Binds the calling thread to the core of the thread of this index.
    pub(super) fn bind(&self, thread: usize) -> io::Result<()> {
        let Some(core) = self.cores.get(thread) else { return Ok(()) };
        self.topology.bind_cpu(core, CpuBindingFlags::THREAD).map_err(io::Error::other)
    }
}

/// Places of so many threads among cores, as far from each other as possible: that tends to be in different caches, where
/// the vCPUs around them are. Nothing where there are too few cores.
fn spread(cores: usize, threads: usize) -> Vec<usize> {
    if threads == 0 || cores / threads < CORES_PER_THREAD {
        return Vec::new();
    }
    (0..threads).map(|thread| thread * cores / threads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_spread_over_the_cores_unless_those_are_few() {
        assert_eq!(spread(16, 4), [0, 4, 8, 12]);
        assert_eq!(spread(9, 2), [0, 4]);
        assert_eq!(spread(4, 1), [0]);
        assert_eq!(spread(3, 1), [0; 0]);
        assert_eq!(spread(7, 2), [0; 0]);
        assert_eq!(spread(16, 0), [0; 0]);
    }

    #[test]
    fn a_thread_runs_on_its_core_from_then_on() {
        let topology = Topology::new().unwrap();
        let core = topology.objects_with_type(ObjectType::Core).next().unwrap().cpuset().unwrap().clone_target();
        let binding = Binding { topology, cores: vec![core.clone()] };
        let bound = std::thread::spawn(move || {
            binding.bind(0).unwrap();
            binding.bind(1).unwrap();
            binding.topology.cpu_binding(CpuBindingFlags::THREAD).unwrap()
        });
        assert_eq!(bound.join().unwrap(), core);
    }

    #[test]
    fn choosing_follows_the_number_of_cores_of_this_machine() {
        let cores = Topology::new().unwrap().objects_with_type(ObjectType::Core).len();
        let chosen = Binding::choose(1).unwrap();
        assert!(chosen.is_none() || cores >= CORES_PER_THREAD);
        assert!(Binding::choose(usize::MAX).unwrap().is_none());
    }
}
