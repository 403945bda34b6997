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
