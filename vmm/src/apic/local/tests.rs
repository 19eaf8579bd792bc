//! The local APIC against the SDM's rules, and against any sequence of accesses.

use super::*;
use crate::apic::{Delivery, Destination, Shorthand};
use proptest::prelude::*;

fn enabled() -> LocalApic {
    let mut apic = LocalApic::new(3);
    apic.write_msr(SVR, 0x1ff, 0).unwrap();
    apic
}

fn deliver(apic: &mut LocalApic, vector: u8, level: bool) {
    let bit = 1 << (vector % 64);
    apic.accept(usize::from(vector) / 64, bit, if level { bit } else { 0 });
}

#[test]
fn after_power_up_it_is_in_x2apic_mode_and_software_disabled() {
    let mut apic = LocalApic::new(0x25);
    assert_eq!(apic.read_msr(ID, 0), Ok(0x25));
    assert_eq!(apic.read_msr(LDR, 0), Ok(0x0002_0020));
    assert_eq!(apic.read_msr(MSR_APIC_BASE, 0), Ok(0xfee0_0c00));
    assert_eq!(LocalApic::new(0).base(), 0xfee0_0d00);
    deliver(&mut apic, 0x40, false);
    assert_eq!(apic.pending(), None, "a disabled APIC accepts nothing");
}

#[test]
fn higher_priority_classes_interrupt_lower_ones() {
    let mut apic = enabled();
    deliver(&mut apic, 0x41, false);
    deliver(&mut apic, 0x52, false);
    assert_eq!(apic.pending(), Some(0x52));
    apic.acknowledge(0x52);
    assert_eq!(apic.pending(), None, "0x41 waits for the end of 0x52");
    deliver(&mut apic, 0x5f, false);
    assert_eq!(apic.pending(), None, "the same class does not nest");
    deliver(&mut apic, 0x60, false);
    assert_eq!(apic.pending(), Some(0x60));
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(ApicWrite::Done));
    apic.acknowledge(0x60);
    apic.write_msr(EOI, 0, 0).unwrap();
    assert_eq!(apic.pending(), Some(0x5f));
}

#[test]
fn the_task_priority_holds_interrupts_back() {
    let mut apic = enabled();
    deliver(&mut apic, 0x41, false);
    apic.set_cr8(4);
    assert_eq!((apic.pending(), apic.read_msr(PPR, 0)), (None, Ok(0x40)));
    apic.write_msr(TPR, 0x3f, 0).unwrap();
    assert_eq!((apic.pending(), apic.cr8()), (Some(0x41), 3));
}

#[test]
fn the_end_of_a_level_interrupt_goes_to_the_ioapic() {
    let mut apic = enabled();
    deliver(&mut apic, 0x41, true);
    apic.acknowledge(0x41);
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(ApicWrite::EndOfLevel(0x41)));
    deliver(&mut apic, 0x41, false);
    apic.acknowledge(0x41);
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(ApicWrite::Done));
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(ApicWrite::Done), "nothing in service");
}

#[test]
fn the_timer_fires_in_each_mode() {
    let mut apic = enabled();
    apic.write_msr(DIVIDE, 0xb, 0).unwrap();
    apic.write_msr(LVT_TIMER, 0xec, 0).unwrap();
    apic.write_msr(INITIAL_COUNT, 50_000, 1_000).unwrap();
    assert_eq!(apic.read_msr(CURRENT_COUNT, 11_000), Ok(40_000));
    apic.advance(50_999);
    assert_eq!(apic.pending(), None);
    apic.advance(51_000);
    assert_eq!(apic.pending(), Some(0xec));
    apic.acknowledge(0xec);
    apic.write_msr(EOI, 0, 0).unwrap();

    apic.write_msr(LVT_TIMER, 0x4_00ec, 0).unwrap();
    apic.write_msr(MSR_TSC_DEADLINE, 90_000, 60_000).unwrap();
    assert_eq!((apic.timer_expiry(), apic.read_msr(MSR_TSC_DEADLINE, 0)), (Some(90_000), Ok(90_000)));
    apic.advance(90_000);
    assert_eq!((apic.pending(), apic.read_msr(MSR_TSC_DEADLINE, 0)), (Some(0xec), Ok(0)));
}

#[test]
fn a_masked_timer_and_a_change_of_mode_fire_nothing() {
    let mut apic = enabled();
    apic.write_msr(LVT_TIMER, 0x5_00ec, 0).unwrap();
    apic.write_msr(MSR_TSC_DEADLINE, 10, 0).unwrap();
    apic.advance(11);
    assert_eq!(apic.pending(), None);
    apic.write_msr(LVT_TIMER, 0x4_00ec, 0).unwrap();
    apic.write_msr(MSR_TSC_DEADLINE, 20, 0).unwrap();
    apic.write_msr(LVT_TIMER, 0xec, 0).unwrap();
    assert_eq!(apic.timer_expiry(), None);
}

#[test]
fn commands_are_decoded_and_illegal_vectors_noted() {
    let mut apic = enabled();
    let sent = apic.write_msr(ICR, 7 << 32 | 0xfd, 0).unwrap();
    let ApicWrite::Send(icr) = sent else { panic!("{sent:?}") };
    assert_eq!((icr.message.destination, icr.message.vector), (Destination::Physical(7), 0xfd));
    assert_eq!((icr.message.delivery, icr.shorthand), (Delivery::Fixed, Shorthand::None));
    assert_eq!(apic.write_msr(ICR, 0x05, 0), Ok(ApicWrite::Done));
    assert_eq!(apic.read_msr(ESR, 0), Ok(0), "errors show after a write");
    apic.write_msr(ESR, 0, 0).unwrap();
    assert_eq!(apic.read_msr(ESR, 0), Ok(u64::from(ESR_SEND_ILLEGAL)));
    deliver(&mut apic, 0x0e, false);
    assert_eq!(apic.pending(), None);
}

#[test]
fn reserved_bits_and_registers_are_refused() {
    let mut apic = enabled();
    for (msr, value) in [(SVR, 0x1000), (EOI, 1), (ID, 1), (DIVIDE, 4), (TPR, 0x100), (0x80e, 0), (ISR, 0)] {
        assert_eq!(apic.write_msr(msr, value, 0), Err(GeneralProtection), "{msr:#x} = {value:#x}");
    }
    assert_eq!(apic.write_msr(MSR_APIC_BASE, 0xfee0_0800, 0), Err(GeneralProtection), "xAPIC mode");
    for msr in [EOI, SELF_IPI, 0x800, 0x8ff, 0x80e] {
        assert_eq!(apic.read_msr(msr, 0), Err(GeneralProtection), "{msr:#x}");
    }
}

#[test]
fn reserved_bits_of_each_local_vector_are_refused_and_read_only_ones_ignored() {
    const LINT0: u32 = 0x835;
    const PERFORMANCE: u32 = 0x834;
    let mut apic = enabled();
    for (msr, allowed, refused) in [
        (LVT_CMCI, 0x1_07ff, 1 << 13),
        (LVT_TIMER, 0x2_00ff, 1 << 8),
        (PERFORMANCE, 0x1_0400, 1 << 15),
        (LINT0, 0x1_a7ff, 1 << 17),
        (LVT_ERROR, 0x1_00ff, 1 << 10),
    ] {
        assert_eq!(apic.write_msr(msr, allowed | LVT_READ_ONLY, 0), Ok(ApicWrite::Done), "{msr:#x}");
        assert_eq!(apic.read_msr(msr, 0), Ok(allowed));
        assert_eq!(apic.write_msr(msr, allowed | refused, 0), Err(GeneralProtection), "{msr:#x}");
        assert_eq!(apic.write_msr(msr, 1 << 32, 0), Err(GeneralProtection), "{msr:#x}");
    }
}

#[test]
fn reserved_bits_of_a_command_are_refused() {
    let mut apic = enabled();
    for bit in (0..32).filter(|bit| ICR_RESERVED >> bit & 1 != 0) {
        assert_eq!(apic.write_msr(ICR, 7 << 32 | 1 << bit | 0xfd, 0), Err(GeneralProtection), "bit {bit}");
    }
    assert!(matches!(apic.write_msr(ICR, 7 << 32 | ICR_DELIVERY_STATUS | 0xfd, 0), Ok(ApicWrite::Send(_))));
    assert_eq!(apic.read_msr(ICR, 0), Ok(7 << 32 | 0xfd));
}

#[test]
fn disabling_by_software_masks_local_vectors_and_keeps_what_is_held() {
    let mut apic = enabled();
    apic.write_msr(LVT_TIMER, 0xec, 0).unwrap();
    deliver(&mut apic, 0x41, false);
    apic.write_msr(SVR, 0xff, 0).unwrap();
    deliver(&mut apic, 0x51, false);
    assert_eq!(apic.pending(), Some(0x41), "held before, and nothing new");
    assert_eq!(apic.read_msr(LVT_TIMER, 0), Ok(0x1_00ec));
    apic.write_msr(LVT_TIMER, 0xec, 0).unwrap();
    assert_eq!(apic.read_msr(LVT_TIMER, 0), Ok(0x1_00ec), "it cannot be unmasked meanwhile");
}

#[test]
fn an_error_raises_its_interrupt() {
    let mut apic = enabled();
    apic.write_msr(LVT_ERROR, 0xfe, 0).unwrap();
    deliver(&mut apic, 0x05, false);
    assert_eq!(apic.pending(), Some(0xfe));
    apic.write_msr(ESR, 0, 0).unwrap();
    assert_eq!(apic.read_msr(ESR, 0), Ok(u64::from(ESR_RECEIVE_ILLEGAL)));
    apic.write_msr(ESR, 0, 0).unwrap();
    assert_eq!(apic.read_msr(ESR, 0), Ok(0));
}

#[test]
fn init_resets_all_but_id_and_mode() {
    let mut apic = enabled();
    deliver(&mut apic, 0x41, false);
    apic.reset();
    assert_eq!(apic, LocalApic::new(3));
}

proptest! {
    #[test]
    fn any_sequence_of_accesses_keeps_the_state_sound(
        steps in prop::collection::vec((0x7f0u32..0x910, any::<u64>(), any::<u8>(), 0u8..6), 1..200)
    ) {
        let mut apic = enabled();
        for (now, (msr, value, vector, action)) in steps.into_iter().enumerate() {
            let now = now as u64 * 10_000;
            match action {
                0 => { let _ = apic.read_msr(msr, now); }
                1 => { let _ = apic.write_msr(msr, value & 0xfff, now); }
                2 => { let _ = apic.write_msr(msr, value, now); }
                3 => deliver(&mut apic, vector, value & 1 != 0),
                4 => apic.advance(now),
                _ => if let Some(vector) = apic.pending() { apic.acknowledge(vector) },
            }
            if let Some(vector) = apic.pending() {
                prop_assert!(vector >= FIRST_VECTOR);
                prop_assert!(u64::from(vector) >> 4 > apic.read_msr(PPR, now).unwrap() >> 4);
            }
        }
    }
}
