//! The bytes of an entry bundle (C2SP tlog-tiles, "Log entries"): each entry after its length, a big-endian 16-bit
//! number.
//!
//! Entries flow in, a bundle's bytes flow out; and back, refusing what is cut off or holds another number of entries
//! than the bundle's path says.
use super::tile::Bundle;

/// The longest entry, in bytes: what the 16-bit length can tell.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// Adds an entry to a bundle's bytes.
///
/// # Errors
/// When it is longer than [`MAX_ENTRY`]; nothing is added then.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), BundleError> {
    let length = u16::try_from(entry.len()).map_err(|_| BundleError::EntryTooLong(entry.len()))?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// The bytes of the bundle with these entries.
///
/// # Errors
/// When one is longer than [`MAX_ENTRY`].
pub fn encode_entries<T: AsRef<[u8]>>(entries: impl IntoIterator<Item = T>) -> Result<Vec<u8>, BundleError> {
    let mut bundle = Vec::new();
    entries.into_iter().try_for_each(|entry| push_entry(&mut bundle, entry.as_ref()))?;
    Ok(bundle)
}

/// The entries in a bundle's bytes, whatever their number.
///
/// # Errors
/// When the bytes end within an entry or its length.
pub fn decode_entries(bytes: &[u8]) -> Result<Vec<&[u8]>, BundleError> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let cut_off = BundleError::CutOff { entry: entries.len() };
        let (length, after) = rest.split_first_chunk().ok_or(cut_off)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, after) = after.split_at_checked(length).ok_or(cut_off)?;
        entries.push(entry);
        rest = after;
    }
    Ok(entries)
}

impl Bundle {
    /// The entries in this bundle's bytes, or the first ones of the full bundle that later took its place.
    ///
    /// # Errors
    /// When the bytes end within an entry, or hold another number of them.
    pub fn decode(self, bytes: &[u8]) -> Result<Vec<&[u8]>, BundleError> {
        let mut entries = decode_entries(bytes)?;
        let width = usize::from(self.width());
        if entries.len() != width && entries.len() != usize::from(super::tile::FULL_WIDTH) {
            return Err(BundleError::Entries { expected: self.width(), found: entries.len() });
        }
        entries.truncate(width);
        Ok(entries)
    }
}

/// Why entries make no bundle, or bytes are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Whoever made the entry is at fault: it cannot be in a log.
    #[error("an entry has at most 65,535 bytes, not {0}")]
    EntryTooLong(usize),
    /// The server of the bundle is at fault, or it was cut off on the way.
    #[error("the bundle ends within entry {entry} (counted from 0) or its length")]
    CutOff {
        /// The first entry that is not there whole.
        entry: usize,
    },
    /// The server of the bundle is at fault.
    #[error("the bundle has {found} entries instead of {expected}")]
    Entries {
        /// The bundle's width.
        expected: u16,
        /// The number of entries that came.
        found: usize,
    },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bundle_is_each_entry_after_its_length() {
        let entries: [&[u8]; 3] = [b"ab", b"", b"c"];
        let bytes = encode_entries(entries).unwrap();
        assert_eq!(bytes, b"\x00\x02ab\x00\x00\x00\x01c");
        assert_eq!(decode_entries(&bytes), Ok(entries.to_vec()));
        assert_eq!(decode_entries(b""), Ok(vec![]));
    }

    #[test]
    fn an_entry_has_at_most_65_535_bytes() {
        let mut bundle = encode_entries([b"before"]).unwrap();
        let before = bundle.clone();
        assert_eq!(push_entry(&mut bundle, &vec![1; 65_536]), Err(BundleError::EntryTooLong(65_536)));
        assert_eq!(bundle, before);
        push_entry(&mut bundle, &vec![1; MAX_ENTRY]).unwrap();
        assert_eq!(decode_entries(&bundle).unwrap()[1].len(), MAX_ENTRY);
    }

    #[test]
    fn a_bundle_that_is_cut_off_or_of_another_width_is_refused() {
        let bytes = encode_entries([b"abc", b"def"]).unwrap();
        for cut in (1..bytes.len()).filter(|cut| *cut != 5) {
            let entry = usize::from(cut > 5);
            assert_eq!(decode_entries(&bytes[..cut]), Err(BundleError::CutOff { entry }), "{cut}");
        }
        assert_eq!(decode_entries(&[bytes.as_slice(), &[0]].concat()), Err(BundleError::CutOff { entry: 2 }));
        let bundle = |width| Bundle::new(0, width).unwrap();
        assert_eq!(bundle(2).decode(&bytes).unwrap(), [b"abc", b"def"]);
        for width in [1, 3, 256] {
            let error = BundleError::Entries { expected: width, found: 2 };
            assert_eq!(bundle(width).decode(&bytes), Err(error));
        }
        let full = encode_entries((0..=255u8).map(|byte| [byte])).unwrap();
        assert_eq!(bundle(3).decode(&full).unwrap(), [[0], [1], [2]]);
        assert_eq!(bundle(256).decode(&full).unwrap().len(), 256);
    }

    proptest! {
        #[test]
        fn entries_survive_their_bundle(entries: Vec<Vec<u8>>) {
            let bytes = encode_entries(&entries).unwrap();
            prop_assert_eq!(decode_entries(&bytes).unwrap(), entries);
        }

        #[test]
        fn any_bytes_are_entries_or_refused_without_panic(bytes in prop::collection::vec(0..4u8, 0..64)) {
            if let Ok(entries) = decode_entries(&bytes) {
                prop_assert_eq!(encode_entries(entries).unwrap(), bytes);
            }
        }
    }
}
