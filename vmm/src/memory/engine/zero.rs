//! Whether a page is all zeros, for which nothing is sent.

/// Bytes looked at first: most pages that are not zero show it here.
const FIRST: usize = 64;
/// Bytes looked at at a time after that.
const CHUNK: usize = 256;

/// Whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (first, rest) = bytes.split_at(FIRST.min(bytes.len()));
    // Without a branch for each byte, so that many are looked at at once.
    let none_set = |bytes: &[u8]| bytes.iter().fold(0, |set, byte| set | byte) == 0;
    none_set(first) && rest.chunks(CHUNK).all(none_set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_makes_a_page_not_zero() {
        let mut page = vec![0; 4096];
        assert!(is_zero(&page));
        for at in 0..page.len() {
            page[at] = 1 << (at % 8);
            assert!(!is_zero(&page), "{at}");
            page[at] = 0;
        }
        assert!(is_zero(&page) && is_zero(&page[..3]) && is_zero(&[]));
        assert!(!is_zero(&[0, 0, 1]));
    }
}
