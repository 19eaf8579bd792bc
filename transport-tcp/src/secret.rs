//! What a machine's ranks know and nobody else does, and the name of a machine.

use std::fmt;
use std::io;

use hmac::{Hmac, KeyInit, Mac};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::Sha256;

/// Length of a secret in bytes.
pub const SECRET_BYTES: usize = 32;

/// Length of a proof of knowing the secret, in bytes.
pub const PROOF_BYTES: usize = 32;

/// The secret of one machine. It is never printed.
#[derive(Clone)]
pub struct Secret([u8; SECRET_BYTES]);

/// Which machine: tells two machines apart that have come to one address.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct MachineId(pub [u8; 16]);

/// Text that is not the hexadecimal form of a secret or machine id.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("not {0} bytes as hexadecimal digits")]
pub struct HexError(usize);

/// Bytes from the kernel's random number generator.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let got = getrandom(&mut bytes, GetRandomFlags::empty())?;
    // Requests of up to 256 bytes are answered whole (getrandom(2)); a short one would leave zeroes.
    if got == N { Ok(bytes) } else { Err(io::Error::other("the kernel gave too few random bytes")) }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|digits| digits.len() == 2 * N).ok_or(HexError(N))?;
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |value, digit| value << 4 | digit);
    }
    Ok(bytes)
}

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub fn random() -> io::Result<Self> {
        random().map(Self)
    }

    /// As hexadecimal digits: for a file or message that only the machine's ranks can read, and nothing else.
    #[must_use]
    pub fn to_hex(&self) -> String {
        to_hex(&self.0)
    }

    /// From what [`Secret::to_hex`] has given.
    ///
    /// # Errors
    /// [`HexError`]; it does not repeat the text.
    pub fn from_hex(text: &str) -> Result<Self, HexError> {
        from_hex(text).map(Self)
    }

    /// What only one who knows the secret can say about `parts`: their HMAC-SHA256 (RFC 2104, FIPS 180-4).
    pub(crate) fn prove(&self, parts: &[&[u8]]) -> [u8; PROOF_BYTES] {
        self.code(parts).finalize().into_bytes().into()
    }

    /// Whether that is so, found out in a time that does not depend on where the proof is wrong.
    pub(crate) fn verify(&self, parts: &[&[u8]], proof: &[u8; PROOF_BYTES]) -> bool {
        self.code(parts).verify_slice(proof).is_ok()
    }

    fn code(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        // Shorter than the hash's block, so it is what `new_from_slice` would do, which cannot fail either.
        let mut key = hmac::digest::Key::<Hmac<Sha256>>::default();
        key.iter_mut().zip(self.0).for_each(|(to, from)| *to = from);
        let mut code = <Hmac<Sha256> as KeyInit>::new(&key);
        parts.iter().for_each(|part| code.update(part));
        code
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl MachineId {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub fn random() -> io::Result<Self> {
        random().map(Self)
    }

    /// From its hexadecimal digits, as `Display` gives them.
    ///
    /// # Errors
    /// [`HexError`].
    pub fn from_hex(text: &str) -> Result<Self, HexError> {
        from_hex(text).map(Self)
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_its_hexadecimal_form_and_nothing_else_is_one() {
        let secret = Secret::random().unwrap();
        let text = secret.to_hex();
        assert_eq!(text.len(), 2 * SECRET_BYTES);
        assert_eq!(Secret::from_hex(&text).unwrap().0, secret.0);
        for wrong in ["", &text[1..], &format!("{text}0"), &text.replace(&text[..1], "g"), &"é".repeat(32)] {
            assert_eq!(Secret::from_hex(wrong).unwrap_err(), HexError(SECRET_BYTES));
        }
        let id = MachineId::random().unwrap();
        assert_eq!(MachineId::from_hex(&id.to_string()), Ok(id));
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret([0xab; SECRET_BYTES]);
        assert_eq!(format!("{secret:?}"), "Secret(hidden)");
    }

    #[test]
    fn two_secrets_differ() {
        assert_ne!(Secret::random().unwrap().0, Secret::random().unwrap().0);
    }

    #[test]
    fn a_proof_is_the_code_of_rfc_4231() {
        // Test case 1 of RFC 4231, whose key of 20 bytes is padded with zeroes as ours of 32 is.
        let mut key = [0; SECRET_BYTES];
        key[..20].fill(0x0b);
        let proof = Secret(key).prove(&[b"Hi ", b"There"]);
        assert_eq!(to_hex(&proof), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    #[test]
    fn a_proof_holds_for_its_secret_and_text_only() {
        let secret = Secret::random().unwrap();
        let proof = secret.prove(&[b"text"]);
        assert!(secret.verify(&[b"te", b"xt"], &proof));
        assert!(!secret.verify(&[b"test"], &proof));
        assert!(!Secret::random().unwrap().verify(&[b"text"], &proof));
    }
}
