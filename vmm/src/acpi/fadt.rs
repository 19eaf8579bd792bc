//! FADT (ACPI section 5.2.9): a hardware-reduced machine, and where its power-off and reset registers are.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, PowerPorts, RESET_VALUE, serialise};

/// IA-PC boot architecture flags (ACPI table 5.11): the guest need not probe for VGA. The flags for devices that are
/// *present* (bit 0 legacy devices, bit 1 8042) stay clear.
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// The guest need not probe for a CMOS real-time clock.
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// The FADT naming the DSDT at this guest-physical address.
pub(super) fn build(power: &PowerPorts, dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // Required to be set (ACPI table 5.10): WBINVD works.
        .flag(Flags::Wbinvd)
        // No fixed power and sleep buttons: in these two bits a one means "not a fixed feature".
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | CMOS_RTC_NOT_PRESENT).into();
    fadt.reset_reg = byte_port(power.reset);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = byte_port(power.sleep_control);
    fadt.sleep_status_reg = byte_port(power.sleep_status);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"VINCS\0\0\0").into();
    serialise(&fadt.finalize())
}

fn byte_port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}
