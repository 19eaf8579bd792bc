//! Whole machines that run a few instructions, on this host's KVM: how they stop, and what survives a save.

mod guest;

use std::thread;
use std::time::{Duration, Instant};

use guest::{
    ENTRY, LONG, PROBE_PORT, expect_eax, kvm_or_skip, machine, machine_with_relaxed, power_off, rdmsr, start, wrmsr,
};
use vincs_vmm::apic::Delivery;
use vincs_vmm::layout::{MAX_RELAXED, relaxed_region};
use vincs_vmm::machine::{MachineError, StopReason};
use vincs_vmm::vcpu::{Activity, CommandError, VcpuState};

/// JMP to itself.
const SPIN: [u8; 2] = [0xeb, 0xfe];
/// CLI; HLT; JMP back to HLT.
const HALT: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];
/// XOR EAX, EAX; then for ever INC EAX; OUT to the probe.
const COUNT: [u8; 8] = [0x31, 0xc0, 0xff, 0xc0, 0xe7, PROBE_PORT, 0xeb, 0xfa];
const TPR: u32 = 0x808;
const SPURIOUS: u32 = 0x80f;

fn reason(code: &[u8]) -> Option<StopReason> {
    start(code).0.wait(Some(LONG))
}

#[test]
fn power_off_and_reset_are_told_apart() {
    if kvm_or_skip() {
        assert_eq!(reason(&power_off()), Some(StopReason::PowerOff));
        assert_eq!(reason(&guest::reset()), Some(StopReason::Reset));
    }
}

#[test]
fn a_fault_without_a_handler_is_a_triple_fault() {
    if kvm_or_skip() {
        // LIDT of a zero limit, after which nothing can be handled: MOV RAX, zeroes; LIDT [RAX].
        let no_handlers = [0x48, 0xc7, 0xc0, 0x00, 0x00, 0x30, 0x00, 0x0f, 0x01, 0x18];
        for msr in [0x1234_5678, 0x80e] {
            let unknown = [no_handlers.to_vec(), rdmsr(msr), power_off()].concat();
            assert_eq!(reason(&unknown), Some(StopReason::TripleFault { vcpu: 0 }), "MSR {msr:#x}");
        }
    }
}

/// Page-directory entry of the last 2 MiB of the first GiB, which this guest does not use, and where that is.
const FREE_ENTRY: u64 = 0xbff8;
const FREE_MAPPING: u64 = (1 << 30) - (2 << 20);

#[test]
fn relaxed_memory_is_where_the_layout_has_it_with_its_block() {
    if !kvm_or_skip() {
        return;
    }
    let (start, _) = relaxed_region(64 << 20, 4 << 20).unwrap();
    // Maps 2 MiB of it and reads four bytes: MOV RAX, entry; MOV [FREE_ENTRY], RAX; MOV EAX, [address].
    let read = |offset: u64, address: u64| {
        let entry = (start.0 + offset) | 0x83; // present, writable, large
        let set = [&[0x48, 0xb8], &entry.to_le_bytes()[..], &[0x48, 0xa3], &FREE_ENTRY.to_le_bytes()].concat();
        [set, vec![0xa1], (FREE_MAPPING + address).to_le_bytes().to_vec()].concat()
    };
    let run = |code: &[u8]| {
        let (machine, _written) = machine_with_relaxed(code, 1, 4 << 20);
        machine.unwrap().start().unwrap().wait(Some(LONG))
    };
    let block = [read(0, 4096), expect_eax(u32::from_le_bytes(*b"NVDI")), power_off()].concat();
    assert_eq!(run(&block), Some(StopReason::PowerOff), "the signature of its block");
    let end = [read(4 << 20, (2 << 20) - 4), expect_eax(0), power_off()].concat();
    assert_eq!(run(&end), Some(StopReason::PowerOff), "its last bytes");
    let beyond = [read(6 << 20, 0), expect_eax(u32::MAX), power_off()].concat();
    assert_eq!(run(&beyond), Some(StopReason::PowerOff), "nothing is there");
}

#[test]
fn relaxed_memory_is_refused_in_pieces_and_beyond_its_limit() {
    for bytes in [1, (2 << 20) - 1, MAX_RELAXED + (2 << 20)] {
        let (refused, _written) = machine_with_relaxed(&HALT, 1, bytes);
        assert!(matches!(refused, Err(MachineError::Relaxed(asked)) if asked == bytes), "{bytes}");
    }
}

#[test]
fn a_guest_that_does_not_end_can_be_stopped() {
    for code in [SPIN.as_slice(), &HALT, &COUNT] {
        if kvm_or_skip() {
            let (machine, _written) = machine(code, 3);
            let running = machine.start().unwrap();
            assert_eq!(running.wait(Some(Duration::from_millis(50))), None);
            let (handle, started) = (running.vcpus()[0].clone(), Instant::now());
            running.stopper().stop();
            assert_eq!(running.wait(Some(LONG)), Some(StopReason::Stopped));
            drop(running);
            assert!(started.elapsed() < LONG / 2, "its threads have ended");
            assert!(matches!(handle.pause(), Err(CommandError::Stopped)), "a command after the end is answered");
        }
    }
}

#[test]
fn the_task_priority_is_one_register_by_two_names() {
    if kvm_or_skip() {
        let read_cr8 = vec![0x44, 0x0f, 0x20, 0xc0]; // mov rax, cr8
        let write_cr8 = vec![0xb8, 5, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0]; // mov eax, 5; mov cr8, rax
        let code = [
            [wrmsr(TPR, 0x30), rdmsr(TPR), expect_eax(0x30), read_cr8.clone(), expect_eax(3)].concat(),
            [write_cr8.clone(), rdmsr(TPR), expect_eax(0x50), write_cr8, wrmsr(TPR, 0x10)].concat(),
            [read_cr8, expect_eax(1), power_off()].concat(),
        ];
        assert_eq!(reason(&code.concat()), Some(StopReason::PowerOff));
    }
}

/// An interrupt gate of the IDT (SDM volume 3, section 7.14.1) to this address, with the boot protocol's code segment.
fn gate(handler: u64) -> Vec<u8> {
    let offset = handler.to_le_bytes();
    let mut gate = vec![offset[0], offset[1], 0x10, 0, 0, 0x8e];
    gate.extend([&offset[2..], &[0; 4]].concat());
    gate
}

#[test]
fn an_interrupt_that_comes_with_a_refused_register_is_delivered() {
    const GENERAL_PROTECTION: usize = 13;
    const TIMER: u32 = 0x40;
    const GATE: usize = 16;
    const TICKS: u8 = 100;
    if kvm_or_skip() {
        // RDTSC; ADD EAX, 200000; ADC EDX, 0; then into the deadline: MOV ECX, 6e0h; WRMSR.
        let arm = [0x0f, 0x31, 0x05, 0x40, 0x0d, 0x03, 0x00, 0x83, 0xd2, 0x00, 0xb9, 0xe0, 0x06, 0, 0, 0x0f, 0x30];
        let stack = [0xbc, 0x00, 0x00, 0x30, 0x00]; // mov esp, 0x300000
        let set_up = [wrmsr(SPURIOUS, 0x1ff), wrmsr(0x832, 0x4_0000 | TIMER), vec![0x31, 0xdb], arm.to_vec()].concat();
        // RDMSR of no MSR; CMP EBX, ticks; JB back to it.
        let ask = [rdmsr(0x1234_5678), vec![0x83, 0xfb, TICKS, 0x72, 0xf4]].concat();
        // ADD [RSP + 8], 2: past the RDMSR; ADD RSP, 8: past the error code; IRETQ.
        let refused = [0x48, 0x83, 0x44, 0x24, 0x08, 0x02, 0x48, 0x83, 0xc4, 0x08, 0x48, 0xcf];
        let tick = [vec![0xff, 0xc3], wrmsr(0x80b, 0), arm.to_vec(), vec![0x48, 0xcf]].concat(); // inc ebx; EOI; arm; iretq
        let main = |to_idt: u32| {
            let lidt = [vec![0x0f, 0x01, 0x1d], to_idt.to_le_bytes().to_vec()].concat();
            [lidt, stack.to_vec(), set_up.clone(), vec![0xfb], ask.clone(), power_off()].concat() // sti before asking
        };
        let first = ENTRY + main(0).len() as u64;
        let second = first + refused.len() as u64;
        let pointer = second + tick.len() as u64;
        let table = (pointer + 10).to_le_bytes();
        let mut idt = vec![0; (TIMER as usize + 1) * GATE];
        for (vector, handler) in [(GENERAL_PROTECTION, first), (TIMER as usize, second)] {
            idt[vector * GATE..][..GATE].copy_from_slice(&gate(handler));
        }
        let limit = u16::try_from(idt.len() - 1).unwrap().to_le_bytes();
        let to_idt = u32::try_from(pointer - ENTRY - 7).unwrap();
        let code = [main(to_idt), refused.to_vec(), tick, limit.to_vec(), table.to_vec(), idt].concat();
        assert_eq!(reason(&code), Some(StopReason::PowerOff), "nothing at all is a lost tick");
    }
}

/// All of a state but when it was saved, so that two can be compared.
fn at_once(state: Box<VcpuState>) -> VcpuState {
    VcpuState { stopped: 0, ..*state }
}

#[test]
fn a_saved_vcpu_goes_on_in_another_machine_where_it_was() {
    if kvm_or_skip() {
        let (first, written) = start(&COUNT);
        assert_eq!(written.recv_timeout(LONG), Ok(1));
        let vcpu = &first.vcpus()[0];
        vcpu.pause().unwrap();
        let state = vcpu.save().unwrap();
        let last = written.try_iter().last().unwrap_or(1);
        let next = u64::from(last) + 1;
        assert!((next - 1..=next).contains(&state.registers.rax), "between two accesses: {}", state.registers.rax);
        let json = serde_json::to_vec(&state).unwrap();
        drop(first);

        let (second, written) = start(&HALT);
        let vcpu = &second.vcpus()[0];
        vcpu.pause().unwrap();
        let memory = second.memory();
        let range = vincs_vmm::memory::GuestRange { start: vm_memory::GuestAddress(ENTRY), len: 8 };
        let held = memory.hold(&[(range, vincs_vmm::memory::Access::Write)]).unwrap();
        vm_memory::Bytes::write_slice(&*held, &COUNT, range.start).unwrap();
        let moved: VcpuState = serde_json::from_slice(&json).unwrap();
        assert_eq!(moved, *state);
        vcpu.restore(Box::new(moved)).unwrap();
        assert_eq!(at_once(vcpu.save().unwrap()), at_once(state), "nothing is lost or changed on the way");
        vcpu.resume().unwrap();
        assert_eq!(written.recv_timeout(LONG), Ok(last + 1));
    }
}

#[test]
fn a_save_between_two_accesses_of_one_instruction_loses_neither() {
    if kvm_or_skip() {
        // For each count in EBX: MOV [RDI], EBX to the IOAPIC's select register; MOV ESI, EDI; OUTSD from it to DX.
        let code = [
            [vec![0xbf, 0x00, 0x00, 0xc0, 0xfe], vec![0x66, 0xba, PROBE_PORT, 0x00], vec![0x31, 0xdb]].concat(),
            [vec![0xfe, 0xc3], vec![0x89, 0x1f], vec![0x89, 0xfe], vec![0x6f], vec![0xeb, 0xf7]].concat(),
        ];
        let (running, written) = start(&code.concat());
        let vcpu = &running.vcpus()[0];
        // Saves from a thread of their own come at any moment of the loop.
        thread::scope(|scope| {
            let saves = scope.spawn(|| (0..2000).for_each(|_| drop(vcpu.save().unwrap())));
            let mut seen = 0u32;
            while !saves.is_finished() || seen < 2000 {
                seen += 1;
                assert_eq!(written.recv_timeout(LONG), Ok(seen & 0xff));
            }
        });
    }
}

#[test]
fn what_waits_for_a_paused_vcpu_is_saved_with_it() {
    if kvm_or_skip() {
        const REQUESTED_64_TO_95: u32 = 0x822;
        let ready = [0xe7, PROBE_PORT]; // out to the probe
        let (running, written) = start(&[wrmsr(SPURIOUS, 0x1ff), ready.to_vec(), HALT.to_vec()].concat());
        written.recv_timeout(LONG).unwrap();
        let vcpu = &running.vcpus()[0];
        vcpu.pause().unwrap();
        vcpu.mailbox().leave(Delivery::Fixed, 0x45, false);
        vcpu.mailbox().leave(Delivery::Nmi, 0, false);
        let state = vcpu.save().unwrap();
        assert_eq!(state.apic.read_msr(REQUESTED_64_TO_95, 0), Ok(1 << 5));
        assert_eq!(state.events.nmi.pending, 1);
        assert_eq!(at_once(vcpu.save().unwrap()), at_once(state.clone()), "a save changes nothing");

        vcpu.mailbox().leave(Delivery::Init, 0, false);
        vcpu.mailbox().leave(Delivery::StartUp, 0x12, false);
        let mut dirty = state;
        dirty.debug.db[0] = 0x1234;
        vcpu.restore(dirty).unwrap();
        let state = vcpu.save().unwrap();
        assert_eq!((state.activity, state.registers.rip, state.special.cs.base), (Activity::Running, 0, 0x1_2000));
        assert_eq!((state.events.nmi.pending, state.debug.db[0]), (0, 0), "INIT drops what was pending");
        assert_eq!(state.apic.read_msr(REQUESTED_64_TO_95, 0), Ok(0));
    }
}

#[test]
fn the_ioapic_moves_with_the_machine() {
    if kvm_or_skip() {
        // MOV EDI, the IOAPIC; MOV [RDI], the first half of pin 1; MOV [RDI + 10H], vector 0x51 unmasked; power off.
        let select = [0xbf, 0x00, 0x00, 0xc0, 0xfe, 0xc7, 0x07, 0x12, 0x00, 0x00, 0x00];
        let entry = [0xc7, 0x47, 0x10, 0x51, 0x00, 0x00, 0x00];
        let (first, _) = start(&[select.as_slice(), &entry, &power_off()].concat());
        assert_eq!(first.wait(Some(LONG)), Some(StopReason::PowerOff));
        let state = first.io_apic().unwrap().save();
        let (second, _) = start(&HALT);
        assert_ne!(second.io_apic().unwrap().save(), state);
        second.io_apic().unwrap().restore(state.clone()).unwrap();
        assert_eq!(second.io_apic().unwrap().save(), state);
    }
}

#[test]
fn a_guest_that_powers_off_for_ever_is_heard_once() {
    if kvm_or_skip() {
        let mut code = power_off();
        code.pop(); // HLT
        let (running, _) = start(&[code, vec![0xeb, 0xfd]].concat()); // jmp to the OUT
        assert_eq!(running.wait(Some(LONG)), Some(StopReason::PowerOff));
        assert_eq!(running.wait(Some(Duration::from_millis(100))), None);
    }
}

#[test]
fn the_clock_goes_on_in_another_machine() {
    if kvm_or_skip() {
        // RDTSC; the counter's bits 20 to 51 to the probe.
        let code = [
            [0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0xc1, 0xe8, 0x14, 0xe7, PROBE_PORT].as_slice(),
            &HALT,
        ];
        let coarse = |clock: vincs_vmm::clock::GuestClock| u32::try_from(clock.now() >> 20 & 0xffff_ffff).unwrap();
        let (first, written) = start(&code.concat());
        let seen = written.recv_timeout(LONG).unwrap();
        assert!((0..=coarse(first.clock())).contains(&seen), "{seen} is not the clock's");
        thread::sleep(Duration::from_millis(200));
        let (clock, before) = (first.clock(), coarse(first.clock()));
        drop(first);

        let (mut second, written) = machine(&code.concat(), 1);
        let moved = serde_json::from_slice(&serde_json::to_vec(&clock).unwrap()).unwrap();
        second.continue_clock(moved).unwrap();
        let second = second.start().unwrap();
        assert_eq!(second.clock(), clock);
        let seen = written.recv_timeout(LONG).unwrap();
        assert!((before..=coarse(clock)).contains(&seen), "{seen} is not after {before}");
    }
}

#[test]
fn commands_from_many_threads_end_with_the_machine() {
    if kvm_or_skip() {
        for code in [COUNT.as_slice(), &HALT] {
            let (machine, written) = machine(code, 2);
            let running = machine.start().unwrap();
            let started = Instant::now();
            thread::scope(|scope| {
                for index in 0..8 {
                    let vcpu = running.vcpus()[index % 2].clone();
                    scope.spawn(move || {
                        loop {
                            let done = vcpu.pause().and_then(|()| vcpu.save()).and_then(|_| vcpu.resume());
                            match done {
                                Ok(()) => vcpu.mailbox().leave(Delivery::Fixed, 0x40, false),
                                Err(CommandError::Stopped) => return,
                                Err(CommandError::State(error)) => panic!("{error}"),
                            }
                        }
                    });
                }
                thread::sleep(Duration::from_millis(100));
                drop((running, written));
            });
            assert!(started.elapsed() < LONG / 2, "nobody waits for an answer that does not come");
        }
    }
}
