//! Trees, proofs, tiles and checkpoints, compared with those of `tlog_tiles`, a port of Go's `sumdb/tlog`.
use tlog_tiles::{Error, HashReader, TileHashReader, TileReader as TheirTileReader};

use super::*;

type TheirHash = tlog_tiles::Hash;
type TheirTile = tlog_tiles::Tile;

fn their(hash: Hash) -> TheirHash {
    tlog_tiles::Hash(*hash.as_bytes())
}

fn ours(hashes: &[TheirHash]) -> Vec<Hash> {
    hashes.iter().map(|hash| Hash::new(hash.0)).collect()
}

struct Reader<F>(F);

impl<F: Fn(NodeId) -> Hash> HashReader for Reader<F> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<TheirHash>, Error> {
        let node = |stored: &u64| {
            let (level, index) = tlog_tiles::split_stored_hash_index(*stored);
            their(self.0(NodeId { level, index }))
        };
        Ok(indexes.iter().map(node).collect())
    }
}

/// The oracle counts stored hashes in 64 bits, of which a tree has about twice its size.
fn two_sizes() -> impl Strategy<Value = (u64, u64)> {
    let size = || number().prop_map(|size| size >> 2).prop_filter("a tree with leaves", |size| *size > 0);
    (size(), size()).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

proptest! {
    #[test]
    fn roots_and_proofs_of_any_size_are_those_of_tlog_tiles((small, size) in two_sizes()) {
        let uniform = Uniform::new();
        let reader = Reader(|node| uniform.read(node).unwrap());
        let read = |node| uniform.read(node);
        prop_assert_eq!(their(uniform.root(size)), tlog_tiles::tree_hash(size, &reader).unwrap());
        if small < size {
            let theirs = tlog_tiles::prove_record(size, small, &reader).unwrap();
            prop_assert_eq!(prove_inclusion(small, size, read).unwrap(), ours(&theirs));
        }
        let theirs = tlog_tiles::prove_tree(size, small, &reader).unwrap();
        prop_assert_eq!(prove_consistency(small, size, read).unwrap(), ours(&theirs));
    }

    #[test]
    fn proofs_with_other_numbers_are_judged_as_by_tlog_tiles(
        (small, size) in two_sizes(),
        (size_by, small_by) in (-2..=2i64, -2..=2i64),
        cut in 0..3usize,
    ) {
        // All leaves are alike, so that proofs with other numbers may well be right.
        let uniform = Uniform::new();
        let (root, leaf) = (uniform.root(size), uniform.leaf());
        let (said_size, said_small) = (size.saturating_add_signed(size_by), small.saturating_add_signed(small_by));
        let cut = |mut proof: Vec<Hash>| {
            proof.truncate((proof.len() + 1).saturating_sub(cut));
            proof
        };
        let shown = |proof: &[Hash]| proof.iter().copied().map(their).collect::<Vec<_>>();
        if small < size {
            let proof = cut(prove_inclusion(small, size, |node| uniform.read(node)).unwrap());
            let verdict = verify_inclusion(&leaf, said_small, said_size, &proof, &root);
            let theirs = tlog_tiles::check_record(&shown(&proof), said_size, their(root), said_small, their(leaf));
            prop_assert_eq!(verdict.is_ok(), theirs.is_ok(), "{:?} and {:?}", verdict, theirs);
        }
        prop_assume!(said_small > 0);
        let old_root = uniform.root(small);
        let proof = cut(prove_consistency(small, size, |node| uniform.read(node)).unwrap());
        let verdict = verify_consistency(said_small, &old_root, said_size, &root, &proof);
        let theirs = tlog_tiles::check_tree(&shown(&proof), said_size, their(root), said_small, their(old_root));
        prop_assert_eq!(verdict.is_ok(), theirs.is_ok(), "{:?} and {:?}", verdict, theirs);
    }

    #[test]
    fn the_tiles_of_a_grown_tree_are_those_of_tlog_tiles(old in number(), by in 0..3000u64) {
        // The oracle's arithmetic ends at the level that only trees above 2^56 have.
        let old = old >> 8;
        let new = old.saturating_add(by).min((1 << 56) - 1);
        let ours: Vec<_> = tile::new_tiles(old, new).map(|tile| (tile.level(), tile.index(), tile.width())).collect();
        let theirs = TheirTile::new_tiles(8, old, new);
        let theirs: Vec<_> =
            theirs.iter().map(|tile| (tile.level(), tile.level_index(), u16::try_from(tile.width()).unwrap())).collect();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn tile_paths_are_those_of_tlog_tiles(level in 0..=63u8, index in number(), width in 1..=256u16) {
        let tile = Tile::new(level, index, width).unwrap();
        let theirs = TheirTile::new(8, level, index, width.into(), false).path();
        prop_assert_eq!(tile.to_string(), theirs.replacen("tile/8/", "tile/", 1));
        prop_assert_eq!(tile.to_string().parse(), Ok(tile));
        let bundle = Bundle::new(index, width).unwrap();
        let theirs = TheirTile::new(8, 0, index, width.into(), true).path();
        prop_assert_eq!(bundle.to_string(), theirs.replacen("tile/8/data/", "tile/entries/", 1));
        prop_assert_eq!(bundle.to_string().parse(), Ok(bundle));
    }

    #[test]
    fn what_is_no_tile_path_is_none_to_tlog_tiles_either(
        level in "0|1|7|63|01|\\+1|x|",
        groups in prop::collection::vec("x?[0-9]{3}|x?[0-9]{1,4}|x|", 1..9),
        width in prop_oneof![2 => Just(String::new()), 1 => "[.]p/[1-9][0-9]{0,2}", 1 => "[.]p/[+]?[0-9]?[1-9]"],
    ) {
        let rest = format!("{level}/{}{width}", groups.join("/"));
        let ours = format!("tile/{rest}").parse::<Tile>();
        let theirs = TheirTile::from_path(&format!("tile/8/{rest}"));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{}: {:?} and {:?}", rest, ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!((ours.level(), ours.index()), (theirs.level(), theirs.level_index()));
            prop_assert_eq!(u32::from(ours.width()), theirs.width());
        }
    }

    #[test]
    fn checkpoints_are_read_and_written_as_by_tlog_tiles(text in mutated(
        "example.com/log\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\nextension\n"
    )) {
        // Control characters are refused by the notes that the oracle reads checkpoints from.
        prop_assume!(text::is_note_text(&text));
        let ours = text.parse::<Checkpoint>();
        let theirs = tlog_tiles::Checkpoint::from_bytes(text.as_bytes());
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?}: {:?} and {:?}", text, ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!((ours.origin(), ours.size()), (theirs.origin(), theirs.size()));
            prop_assert_eq!(&their(ours.root()), theirs.hash());
            prop_assert_eq!(ours.to_string().into_bytes(), theirs.to_bytes());
            prop_assert_eq!(ours.to_string(), text);
        }
    }
}

/// Our tiles of a tree, as the oracle wants them.
struct Tiles(Grown);

impl TheirTileReader for Tiles {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[TheirTile]) -> Result<Vec<Vec<u8>>, Error> {
        let bytes = |tile: &TheirTile| {
            let tile = Tile::new(tile.level(), tile.level_index(), u16::try_from(tile.width()).unwrap()).unwrap();
            assert!(tile.exists_in(self.0.tree.size()));
            tile::encode(&tile.hashes(|node| self.0.read(node)).unwrap())
        };
        Ok(tiles.iter().map(bytes).collect())
    }

    fn save_tiles(&self, _: &[TheirTile], _: &[Vec<u8>]) {}
}

#[test]
fn tlog_tiles_proves_from_our_tiles() {
    let size = 1300;
    let tiles = Tiles(Grown::to(size));
    let root = tiles.0.tree.root();
    let reader = TileHashReader::new(size, their(root), &tiles);
    for small in [1, 5, 255, 256, 257, 1023, 1024, 1279, 1280, 1299] {
        let proof = ours(&tlog_tiles::prove_record(size, small, &reader).unwrap());
        assert_eq!(verify_inclusion(&leaf_hash(&entry(small)), small, size, &proof, &root), Ok(()));
        let proof = ours(&tlog_tiles::prove_tree(size, small, &reader).unwrap());
        assert_eq!(verify_consistency(small, &tiles.0.root(small), size, &root, &proof), Ok(()));
    }
}
