//! What ring 0 and ring 3 share about a processor, and ring 0's services.

use core::arch::{asm, global_asm, x86_64};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use vincs_micro_guest_payload::protocol::{self, MAX_CPUS};

/// First vector of the interrupts that programs use.
pub(crate) const FIRST_IRQ: usize = 0x40;
/// Number of vectors that programs can use.
const IRQS: usize = 16;
/// Bytes of a [`CpuBlock`], a power of two: ring 0 finds its block by rounding its stack pointer down.
const CPU_BLOCK_BYTES: usize = 4096;
/// Bytes of a ring-3 stack.
const USER_STACK_BYTES: usize = 64 << 10;
/// Bytes between task states.
const TSS_BYTES: usize = 512;
/// Ports 0 to one less are open to ring 3.
const PORTS: usize = (protocol::PORT_BASE + protocol::PORT_COUNT) as usize;
/// Limit of a task state segment: the architectural part, the port bitmap, the byte of ones.
const TSS_LIMIT: usize = 104 + PORTS / 8;

const _: () = assert!(size_of::<CpuBlock>() == CPU_BLOCK_BYTES);
const _: () = assert!(TSS_LIMIT < TSS_BYTES && PORTS.is_multiple_of(8));

/// The interrupt lines of the programs: vector [`FIRST_IRQ`] and up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Line {
    /// Inter-processor interrupts of a program.
    Ipi = 0,
    /// The local timer.
    Timer = 1,
    /// Look again at what you wait for.
    Wake = 2,
}

impl Line {
    /// Its vector.
    pub(crate) fn vector(self) -> u64 {
        (FIRST_IRQ + self as usize) as u64
    }
}

/// What the handler of an interrupt leaves behind.
#[repr(C)]
struct Irq {
    /// Time of the last one.
    tsc: AtomicU64,
    /// How many there were.
    count: AtomicU64,
}

/// One processor's state that ring 0 writes; its end is the stack of ring 0.
#[repr(C, align(4096))]
struct CpuBlock {
    id: AtomicU64,
    /// Whether a fault is being reported.
    faulted: AtomicU64,
    /// Whether ring 0 has switched AVX on. (CPUID in ring 3 is not to be trusted: a software KVM does not intercept it.)
    avx: AtomicU64,
    fault: [AtomicU64; 5],
    irqs: [Irq; IRQS],
    stack: [AtomicU64; 472],
}

#[repr(C, align(16))]
struct UserStack([AtomicU64; USER_STACK_BYTES / 8]);

#[unsafe(no_mangle)]
static CPU_BLOCKS: [CpuBlock; MAX_CPUS] = [const {
    CpuBlock {
        id: AtomicU64::new(0),
        faulted: AtomicU64::new(0),
        avx: AtomicU64::new(0),
        fault: [const { AtomicU64::new(0) }; 5],
        irqs: [const { Irq { tsc: AtomicU64::new(0), count: AtomicU64::new(0) } }; IRQS],
        stack: [const { AtomicU64::new(0) }; 472],
    }
}; MAX_CPUS];

#[unsafe(no_mangle)]
static USER_STACKS: [UserStack; MAX_CPUS] =
    [const { UserStack([const { AtomicU64::new(0) }; USER_STACK_BYTES / 8]) }; MAX_CPUS];

global_asm!(
    include_str!("boot.s"),
    MAX_CPUS = const MAX_CPUS,
    CPU_BLOCK_BYTES = const CPU_BLOCK_BYTES,
    CPU_BLOCK_SHIFT = const CPU_BLOCK_BYTES.ilog2(),
    CPU_ID = const offset_of!(CpuBlock, id),
    CPU_FAULTED = const offset_of!(CpuBlock, faulted),
    CPU_AVX = const offset_of!(CpuBlock, avx),
    CPU_FAULT = const offset_of!(CpuBlock, fault),
    CPU_IRQS = const offset_of!(CpuBlock, irqs),
    FIRST_IRQ = const FIRST_IRQ,
    IRQS = const IRQS,
    USER_STACK_SHIFT = const USER_STACK_BYTES.ilog2(),
    TSS_SHIFT = const TSS_BYTES.ilog2(),
    TSS_LIMIT = const TSS_LIMIT,
    PORTS = const PORTS,
    PORT_END = const protocol::PORT_END,
    END_TOO_MANY_CPUS = const protocol::END_TOO_MANY_CPUS,
    END_NESTED_FAULT = const protocol::END_NESTED_FAULT,
    KERNEL_CODE = const KERNEL_CODE,
    KERNEL_DATA = const 0x10,
    USER_DATA = const 0x23,
    USER_CODE = const 0x2b,
    FIRST_TASK = const 0x30,
    SERVICE = const SERVICE,
    SERVICE_VECTOR = const SERVICE_VECTOR,
    // Where in the trampoline the pointer to the descriptor table is: behind its code.
    TRAMPOLINE_GDT = const 0x40,
);

/// Number of ring 0's first service: one that rax does not hold by chance where the compiler has put a `ud2` of its own.
const SERVICE: u64 = 0x5649_4e43;
/// The vector of `ud2`, which calls ring 0's services.
pub(crate) const SERVICE_VECTOR: u64 = 6;
/// Selector of ring 0's code segment.
pub(crate) const KERNEL_CODE: u64 = 0x08;

/// A handle on one processor.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    id: usize,
    block: &'static CpuBlock,
}

/// What is known about a fault.
pub(crate) struct Fault {
    pub(crate) cpu: u64,
    pub(crate) vector: u64,
    pub(crate) error_code: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) address: u64,
}

impl Cpu {
    /// The processor with this APIC id, which is below [`MAX_CPUS`].
    pub(crate) fn new(id: usize) -> Self {
        match CPU_BLOCKS.get(id) {
            Some(block) => Self { id, block },
            None => crate::report::fail(format_args!("there is no processor {id}; the highest is {}", MAX_CPUS - 1)),
        }
    }

    /// Its APIC id.
    pub(crate) fn id(self) -> usize {
        self.id
    }

    /// Whether it can use AVX.
    pub(crate) fn has_avx(self) -> bool {
        self.block.avx.load(Ordering::Relaxed) != 0
    }

    /// Interrupts taken on a line so far.
    pub(crate) fn count(self, line: Line) -> u64 {
        self.irq(line).count.load(Ordering::Acquire)
    }

    /// When the last interrupt on a line was taken.
    pub(crate) fn time(self, line: Line) -> u64 {
        self.irq(line).tsc.load(Ordering::Acquire)
    }

    /// Halts until `count` interrupts have been taken on a line. Only for the processor itself.
    pub(crate) fn wait(self, line: Line, count: u64) {
        wait_until(&self.irq(line).count, |now| now >= count);
    }

    fn irq(self, line: Line) -> &'static Irq {
        &self.block.irqs[line as usize]
    }
}

/// What ring 0 has kept about the fault of the processor with this block.
///
/// # Safety
/// `block` is the address of a [`CpuBlock`].
unsafe fn fault_at(block: *const CpuBlock) -> Fault {
    // SAFETY: the caller says that this is a block; blocks live forever and hold only atomics.
    let block = unsafe { &*block };
    let [vector, error_code, rip, cs, address] = [0, 1, 2, 3, 4].map(|i: usize| block.fault[i].load(Ordering::Relaxed));
    Fault { cpu: block.id.load(Ordering::Relaxed), vector, error_code, rip, cs, address }
}

/// Where ring 0 sends a processor that has faulted.
#[unsafe(no_mangle)]
extern "C" fn ring3_fault(block: *const CpuBlock) -> ! {
    // SAFETY: `fault` in boot.s passes the processor's own block.
    let fault = unsafe { fault_at(block) };
    crate::interrupts::report_fault(&fault)
}

/// Halts again and again until `met` holds for `word`. Whoever changes `word` sends an interrupt afterwards.
pub(crate) fn wait_until(word: &AtomicU64, met: impl Fn(u64) -> bool) {
    loop {
        let seen = word.load(Ordering::Acquire);
        if met(seen) {
            return;
        }
        // SAFETY: service 2 reads the word, which is alive, and halts.
        unsafe {
            asm!("ud2", inout("rax") SERVICE + 2 => _, in("rdi") word.as_ptr(), in("rsi") seen);
        }
    }
}

/// Writes a model-specific register.
pub(crate) fn write_msr(index: u32, value: u64) {
    // SAFETY: service 1; the callers write registers of the local APIC and segment bases, which no Rust code relies on.
    unsafe {
        asm!("ud2", inout("rax") SERVICE + 1 => _, in("rcx") u64::from(index), in("rdi") value, out("rdx") _);
    }
}

/// Halts forever, but for interrupts.
pub(crate) fn park() -> ! {
    // SAFETY: service 3 never comes back.
    unsafe { asm!("ud2", in("rax") SERVICE + 3, options(noreturn)) }
}

/// The time-stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: it reads a counter; ring 3 may (CR4.TSD is clear).
    unsafe { x86_64::_rdtsc() }
}
