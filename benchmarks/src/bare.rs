//! A guest on KVM_RUN and nothing else: one vCPU in ring 3 that writes a port again and again.

use std::arch::x86_64::_rdtsc;
use std::io;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

/// The guest's memory, page by page: PML4, page directory pointers, page directory, task state, code.
const PAGES: usize = 5;
const PAGE: usize = 4096;
const PML4: u64 = 0;
const TASK_STATE: u64 = 3 * PAGE as u64;
const CODE: u64 = 4 * PAGE as u64;
/// Present, writable, for ring 3.
const TABLE_FLAGS: u64 = 7;
/// The same, and a large page.
const LARGE_PAGE_FLAGS: u64 = 0x87;
/// The port; the one that the micro-guest writes.
const PORT: u16 = 0x630;
/// `out %eax, %dx; jmp` back to it.
const LOOP: [u8; 3] = [0xef, 0xeb, 0xfd];
/// Bytes of the task state before its port bitmap; its last word is the bitmap's offset.
const TASK_STATE_HEAD: u16 = 104;
/// The head, a bitmap up to the port, and the byte of ones after it.
const TASK_STATE_LIMIT: u32 = TASK_STATE_HEAD as u32 + (PORT as u32 + 8) / 8;

/// Why the bare guest does not run.
#[derive(Debug, thiserror::Error)]
pub enum BareError {
    /// KVM refused something.
    #[error("KVM cannot {0}: {1}")]
    Kvm(&'static str, io::Error),
    /// The guest left for another reason than its port.
    #[error("the bare guest stopped with {0}")]
    Exit(String),
}

fn kvm(action: &'static str) -> impl Fn(kvm_ioctls::Error) -> BareError {
    move |error| BareError::Kvm(action, io::Error::from_raw_os_error(error.errno()))
}

/// The guest, ready to run.
#[derive(Debug)]
pub struct BareGuest {
    vcpu: VcpuFd,
    // Dropped after the vCPU: KVM's machine, then the memory that it uses.
    _vm: VmFd,
    _memory: Box<Memory>,
}

#[repr(C, align(4096))]
#[derive(Debug)]
struct Memory([u8; PAGES * PAGE]);

impl Memory {
    fn put(&mut self, address: u64, bytes: &[u8]) {
        let places = self.0.iter_mut().skip(usize::try_from(address).unwrap_or(usize::MAX));
        places.zip(bytes).for_each(|(place, byte)| *place = *byte);
    }
}

impl BareGuest {
    /// Builds the guest.
    ///
    /// # Errors
    /// [`BareError`] when KVM refuses something.
    pub fn new() -> Result<Self, BareError> {
        let mut memory = Box::new(Memory([0; PAGES * PAGE]));
        memory.put(PML4, &(PAGE as u64 | TABLE_FLAGS).to_le_bytes());
        memory.put(PAGE as u64, &((2 * PAGE as u64) | TABLE_FLAGS).to_le_bytes());
        memory.put(2 * PAGE as u64, &LARGE_PAGE_FLAGS.to_le_bytes());
        memory.put(TASK_STATE + u64::from(TASK_STATE_HEAD) - 2, &TASK_STATE_HEAD.to_le_bytes());
        memory.put(TASK_STATE + u64::from(TASK_STATE_LIMIT), &[0xff]);
        memory.put(CODE, &LOOP);

        let host = Kvm::new().map_err(kvm("be opened"))?;
        let vm = host.create_vm().map_err(kvm("create a machine"))?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: (PAGES * PAGE) as u64,
            userspace_addr: memory.0.as_mut_ptr().expose_provenance() as u64,
        };
        // SAFETY: the memory is that long, aligned, and lives longer than the machine: fields drop in their order.
        unsafe { vm.set_user_memory_region(region) }.map_err(kvm("take memory"))?;
        let vcpu = vm.create_vcpu(0).map_err(kvm("create a vCPU"))?;
        enter_ring3(&vcpu)?;
        Ok(Self { vcpu, _vm: vm, _memory: memory })
    }

    /// Ticks that `exits` exits take, all together.
    ///
    /// # Errors
    /// [`BareError`] when the guest leaves for another reason.
    pub fn run(&mut self, exits: u64) -> Result<u64, BareError> {
        let start = ticks();
        for _ in 0..exits {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(PORT, _)) => {}
                Ok(other) => return Err(BareError::Exit(format!("{other:?}"))),
                Err(error) => return Err(kvm("run the vCPU")(error)),
            }
        }
        Ok(ticks() - start)
    }
}

/// Long mode, flat segments, ring 3 with the port open.
fn enter_ring3(vcpu: &VcpuFd) -> Result<(), BareError> {
    const EFER_LONG_MODE: u64 = 0x500;
    let mut special = vcpu.get_sregs().map_err(kvm("read registers"))?;
    let segment = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, dpl: 3, ..Default::default() };
    let data = kvm_segment { selector: 0x23, type_: 3, db: 1, ..segment };
    special.cs = kvm_segment { selector: 0x2b, type_: 11, l: 1, ..segment };
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.tr = kvm_segment {
        base: TASK_STATE,
        limit: TASK_STATE_LIMIT,
        selector: 0x30,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    special.cr0 = 0x8005_0033;
    special.cr3 = PML4;
    special.cr4 = 0x620;
    special.efer = EFER_LONG_MODE;
    vcpu.set_sregs(&special).map_err(kvm("set special registers"))?;
    let registers = kvm_regs { rip: CODE, rdx: PORT.into(), rflags: 2, ..Default::default() };
    vcpu.set_regs(&registers).map_err(kvm("set registers"))
}

fn ticks() -> u64 {
    // SAFETY: RDTSC has no preconditions; every x86-64 processor has it.
    unsafe { _rdtsc() }
}
