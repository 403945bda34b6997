//! Paths of tiles and entry bundles, as anybody may ask for them.
use dshield_common::tlog::{Bundle, Tile, TilePath};

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "tile/",
    "tile/0/",
    "tile/entries/",
    ".p/",
    ".p/256",
    ".p/0",
    "x001/",
    "x999/",
    "000",
    "999",
    "/",
    "//",
    "%2f",
    "x",
    "+1",
    "tile/63/",
    "72057594037927935",
];

/// A path that names a tile is the only one that does.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(path) = text.parse::<TilePath>() else {
        assert!(text.parse::<Tile>().is_err() && text.parse::<Bundle>().is_err());
        return;
    };
    assert_eq!(path.to_string(), text, "two paths of one tile");
    match path {
        TilePath::Tile(tile) => {
            assert_eq!(text.parse::<Tile>().ok(), Some(tile));
            assert!((1..=256).contains(&tile.width()));
            assert_eq!(tile.is_partial(), tile.width() < 256);
            for size in [0, 1, 255, 256, 70_000, u64::MAX >> 1] {
                assert_eq!(tile.exists_in(size), tile.width_at(size).is_some_and(|width| width >= tile.width()));
            }
            assert!(tile.nodes().count() <= 256);
        }
        TilePath::Bundle(bundle) => {
            assert_eq!(text.parse::<Bundle>().ok(), Some(bundle));
            if let Some(entries) = bundle.entries() {
                assert_eq!(entries.end - entries.start, u64::from(bundle.width()));
            }
        }
    }
}
