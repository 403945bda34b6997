//! Random work on the journal and the tree, compared with a list and a tree that know no borders.
use std::collections::HashMap;

use dshield_common::tlog::{Tree, leaf_hash};

use super::disk::{Disk, Random};
use super::*;
use crate::log::journal::{Appended, Journal, JournalError};
use crate::log::row::Row;

const PAGE: u64 = 4096;
const ID: [u8; 32] = [b'1'; 32];
/// A frame's header, and what is framed with each row besides its entry.
const FRAME_HEADER: u64 = 64;
const ROW: u64 = 4 + 2 + 3;

fn row(seq: u64, length: u64) -> Row {
    let mut entry = format!("{seq} ");
    entry.extend(std::iter::repeat_n('x', usize::try_from(length).unwrap().saturating_sub(entry.len())));
    Row::new(&entry, &[1, 2, 3])
}

/// Rows of one frame whose length is a page border, or a byte beside one.
fn batch(first: u64, half: u64, random: &mut Random) -> (Vec<Row>, u64) {
    let pages = 1 + random.next() % (half / PAGE);
    let bytes = pages * PAGE - 1 + random.next() % 3;
    let many = 1 + random.next() % 3;
    let mut left = bytes - FRAME_HEADER - many * ROW;
    let mut rows = Vec::new();
    for index in 0..many {
        // At least its number.
        let most = left - (many - index - 1) * 8;
        let length = if index + 1 == many { most } else { 8 + random.next() % (most - 8).max(1) };
        rows.push(row(first + index, length));
        left -= length;
    }
    (rows, bytes)
}

fn work_on_a_journal(seed: u64) {
    let random = &mut Random::new(seed);
    let half = [4, 6, 40][usize::try_from(seed % 3).unwrap()] * PAGE;
    let disk = Disk::with_journal(usize::try_from(2 * half).unwrap());
    let mut rows: Vec<Row> = Vec::new();
    // Up to here a database has them.
    let mut taken = 0;
    let mut journal = Journal::open(disk.journal(), &ID, 0).unwrap().0;
    for step in 0..120 {
        let when = format!("seed {seed}, step {step}");
        let end = rows.len() as u64;
        let (new, bytes) = batch(end, half, random);
        if PAGE + bytes > half {
            let refused = journal.append(end, &new, end);
            assert!(matches!(refused, Err(JournalError::Io(_))), "{when}: {bytes} bytes: {refused:?}");
        } else {
            let mut appended = journal.append(end, &new, taken).unwrap();
            if appended == Appended::Full {
                assert!(taken < end, "{when}: full of nothing");
                taken = end;
                appended = journal.append(end, &new, taken).unwrap();
            }
            assert_eq!(appended, Appended::Durable, "{when}");
            rows.extend(new);
        }
        let end = rows.len() as u64;
        if random.one_in(3) {
            taken += random.next() % (end - taken + 1);
        }
        if random.one_in(8) {
            taken = end;
            journal.restart(end).unwrap();
        }
        for known in [taken, taken + random.next() % (end - taken + 1), end] {
            let (_, found) =
                Journal::open(disk.journal(), &ID, known).unwrap_or_else(|error| panic!("{when}: {error:?}"));
            assert!(found == rows[usize::try_from(known).unwrap()..], "{when}: beyond {known}");
        }
        if random.one_in(4) {
            journal = Journal::open(disk.journal(), &ID, taken).unwrap().0;
            // As a log does when it is opened.
            taken = end;
        }
    }
}

#[test]
fn a_journal_gives_back_what_was_appended_whatever_its_size_and_whenever_it_is_opened() {
    (0..60).for_each(work_on_a_journal);
}

#[test]
fn the_edge_of_a_tree_of_any_size_is_loaded_from_tiles_as_it_grew() {
    let random = &mut Random::new(3);
    // Around the borders of both levels of tiles, and anywhere.
    let mut sizes = vec![0, 1, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 65_792, 70_000];
    sizes.extend((0..60).map(|_| random.next() % 70_000));
    sizes.sort_unstable();
    let leaf = |index: u64| leaf_hash(&index.to_be_bytes());
    let mut tree = Tree::new();
    let mut grown = tiles::Edge::default();
    let mut tiles: HashMap<tiles::TileId, tiles::Tile> = HashMap::new();
    for size in sizes {
        while tree.size() < size {
            grown.push(leaf(tree.size()));
            tree.append(leaf(tree.size()));
        }
        tiles.extend(grown.full().iter().map(|(id, tile)| (*id, tile.clone())));
        let leaves = (size - size % 256..size).map(leaf).collect();
        let read = |id| tiles.get(&id).cloned().ok_or(id);
        let mut loaded = tiles::Edge::load(size, leaves, read).unwrap_or_else(|id| panic!("{size}: no tile {id:?}"));
        assert_eq!((loaded.size(), loaded.root()), (size, tree.root()));
        for id in [(0, size >> 8), (1, size >> 16), (2, 0)] {
            assert_eq!(loaded.tile(id).unwrap_or_default(), grown.tile(id).unwrap_or_default(), "{size}: {id:?}");
        }
        // And it grows on as the other one.
        let (mut on, mut further) = (tree.clone(), grown.clone());
        let before: Vec<_> = further.full().keys().copied().collect();
        further.taken(&before);
        for index in size..size + 300 {
            loaded.push(leaf(index));
            further.push(leaf(index));
            on.append(leaf(index));
        }
        assert_eq!((loaded.root(), loaded.full()), (on.root(), further.full()), "{size}");
    }
}
