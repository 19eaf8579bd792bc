//! How vCPUs are arranged in packages and NUMA nodes: one package per node.

/// A virtual processor's number, from 0.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct VcpuId(pub u32);

/// Most vCPUs of a machine: the IOAPIC addresses processors by eight bits, of which 255 means all of them.
pub const MAX_VCPUS: u32 = 255;

/// The arrangement of a machine's vCPUs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Topology {
    vcpus: u32,
    nodes: u32,
}

/// The numbers do not make a machine.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum TopologyError {
    /// Too few or too many vCPUs.
    #[error("{0} vCPUs: a machine has 1 to {MAX_VCPUS}; change --vcpus")]
    Vcpus(u32),
    /// Too few or too many NUMA nodes.
    #[error("{nodes} NUMA nodes: {vcpus} vCPUs make 1 to {vcpus} nodes; change --numa")]
    Nodes {
        /// NUMA nodes asked for.
        nodes: u32,
        /// vCPUs asked for.
        vcpus: u32,
    },
    /// The APIC ids that packages of this size need do not fit.
    #[error(
        "{vcpus} vCPUs in {nodes} NUMA nodes need processor ids over {MAX_VCPUS}; use a number of nodes that divides the vCPUs into packages of a power of two"
    )]
    Ids {
        /// NUMA nodes asked for.
        nodes: u32,
        /// vCPUs asked for.
        vcpus: u32,
    },
}

impl Topology {
    /// `vcpus` processors in `nodes` NUMA nodes, as evenly as they go.
    ///
    /// # Errors
    /// [`TopologyError`] when the numbers are out of range.
    pub fn new(vcpus: u32, nodes: u32) -> Result<Self, TopologyError> {
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(TopologyError::Vcpus(vcpus));
        }
        if !(1..=vcpus).contains(&nodes) {
            return Err(TopologyError::Nodes { nodes, vcpus });
        }
        let topology = Self { vcpus, nodes };
        if topology.apic_id(VcpuId(vcpus - 1)) >= MAX_VCPUS {
            return Err(TopologyError::Ids { nodes, vcpus });
        }
        Ok(topology)
    }

    /// One processor in one node.
    #[must_use]
    pub fn single() -> Self {
        Self { vcpus: 1, nodes: 1 }
    }

    /// Number of vCPUs.
    #[must_use]
    pub fn vcpus(&self) -> u32 {
        self.vcpus
    }

    /// Number of NUMA nodes, and of packages.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        self.nodes
    }

    /// All vCPUs in order.
    pub fn ids(&self) -> impl Iterator<Item = VcpuId> + use<> {
        (0..self.vcpus).map(VcpuId)
    }

    /// The NUMA node of a vCPU.
    #[must_use]
    pub fn node(&self, vcpu: VcpuId) -> u32 {
        self.place(vcpu).0
    }

    /// The node of a vCPU and its number there: the first nodes have one more where the vCPUs do not divide evenly.
    fn place(&self, vcpu: VcpuId) -> (u32, u32) {
        let (least, larger) = (self.vcpus / self.nodes, self.vcpus % self.nodes);
        let in_larger = larger * (least + 1);
        match vcpu.0.checked_sub(in_larger) {
            None => (vcpu.0 / (least + 1), vcpu.0 % (least + 1)),
            Some(beyond) => (larger + beyond / least, beyond % least),
        }
    }

    /// The vCPUs of a node, in order.
    pub fn ids_of(&self, node: u32) -> impl Iterator<Item = VcpuId> + use<> {
        let topology = *self;
        self.ids().filter(move |id| topology.node(*id) == node)
    }

    /// The APIC id of a vCPU: its package above [`Self::core_bits`] bits of its number in it.
    #[must_use]
    pub fn apic_id(&self, vcpu: VcpuId) -> u32 {
        let (node, number) = self.place(vcpu);
        node << self.core_bits() | number
    }

    /// Bits of the APIC id that number the vCPUs of one package.
    #[must_use]
    pub fn core_bits(&self) -> u32 {
        self.per_node().next_power_of_two().trailing_zeros()
    }

    /// vCPUs of the first package, which has as many as any.
    #[must_use]
    pub fn per_node(&self) -> u32 {
        self.vcpus.div_ceil(self.nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_packages_start_at_powers_of_two() {
        let topology = Topology::new(6, 2).unwrap();
        let ids: Vec<u32> = topology.ids().map(|vcpu| topology.apic_id(vcpu)).collect();
        assert_eq!(ids, [0, 1, 2, 4, 5, 6]);
        assert_eq!((topology.node(VcpuId(2)), topology.node(VcpuId(3))), (0, 1));
    }

    #[test]
    fn the_limits_hold_at_their_edges() {
        assert_eq!(Topology::new(0, 1), Err(TopologyError::Vcpus(0)));
        assert_eq!(Topology::new(256, 1), Err(TopologyError::Vcpus(256)));
        assert!(Topology::new(255, 1).is_ok() && Topology::new(1, 1).is_ok());
        assert_eq!(Topology::new(2, 3), Err(TopologyError::Nodes { nodes: 3, vcpus: 2 }));
        assert_eq!(Topology::new(2, 0), Err(TopologyError::Nodes { nodes: 0, vcpus: 2 }));
        assert!(Topology::new(255, 2).is_ok());
        assert_eq!(Topology::new(255, 3), Err(TopologyError::Ids { nodes: 3, vcpus: 255 }));
    }

    #[test]
    fn every_node_has_vcpus_though_they_do_not_divide_evenly() {
        let topology = Topology::new(5, 4).unwrap();
        let nodes: Vec<u32> = topology.ids().map(|vcpu| topology.node(vcpu)).collect();
        assert_eq!(nodes, [0, 0, 1, 2, 3]);
        let ids: Vec<u32> = topology.ids().map(|vcpu| topology.apic_id(vcpu)).collect();
        assert_eq!(ids, [0, 1, 2, 4, 6]);
        assert_eq!(topology.ids_of(0).collect::<Vec<_>>(), [VcpuId(0), VcpuId(1)]);
        assert_eq!(topology.ids_of(3).collect::<Vec<_>>(), [VcpuId(4)]);
    }
}
