//! Power failures at random moments of random work, on a disk that writes what was not synced in any order, or in part,
//! or not at all. What was acknowledged must be there, and nothing that was never written.
use super::disk::{Disk, Random};
use super::*;
use crate::log::journal::Appended;
use crate::log::row::Row;

/// Two halves of 16 pages, so that they are used in turn all the time.
const JOURNAL: usize = 128 << 10;
/// How many runs of some lives each; more are asked for with this variable.
const SEEDS: u64 = 500;
const SEEDS_VARIABLE: &str = "DSHIELD_SEEDS";

/// A row that nobody signed, which storage does not mind; its content tells where it belongs.
fn row(seq: u64, attempt: u64, random: &mut Random) -> Row {
    let length = if random.one_in(8) { random.next() % 20_000 } else { random.next() % 600 };
    let padding = "x".repeat(usize::try_from(length).unwrap());
    let entry =
        format!(r#"{{"boot_id":"","count":{attempt},"kind":"lost","seq":{seq},"source":"{padding}","time":""}}"#);
    Row::new(&entry, &[1, 2, 3])
}

/// All rows, the tree over them, and every full tile.
fn assert_whole(ledger: &Ledger, acknowledged: &[Row], in_flight: &[Row], when: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    while (rows.len() as u64) < ledger.next() {
        rows.extend(
            ledger.rows(rows.len() as u64, usize::MAX, usize::MAX).unwrap_or_else(|error| panic!("{when}: {error}")),
        );
    }
    assert!(rows.len() >= acknowledged.len(), "{when}: {} of {} are there", rows.len(), acknowledged.len());
    let (there, more) = rows.split_at(acknowledged.len());
    assert!(there == acknowledged, "{when}: something else is there");
    // What was under way is there as a whole or not at all.
    assert!(more.is_empty() || more == in_flight, "{when}: {} more rows", more.len());
    let mut edge = tiles::Edge::default();
    for row in &rows {
        edge.push(row.leaf);
    }
    assert_eq!(ledger.head(), (edge.size(), edge.root()), "{when}");
    for (id, tile) in edge.full() {
        assert_eq!(ledger.tile(*id).unwrap().as_ref(), Some(tile), "{when}: tile {id:?}");
    }
    rows
}

fn run(seed: u64) {
    let random = &mut Random::new(seed);
    let mut disk = Disk::with_journal(JOURNAL);
    let mut acknowledged: Vec<Row> = Vec::new();
    for life in 0..1 + random.next() % 3 {
        let when = format!("seed {seed}, life {life}");
        let (ledger, _) = disk.ledger().unwrap_or_else(|error| panic!("{when}: {error}"));
        ledger.begin().unwrap();
        disk.fail_after(random.next() % 60);
        let mut in_flight = Vec::new();
        let mut broken = false;
        for step in 0..30 {
            let failed = match random.next() % 8 {
                0 => ledger.take().is_err(),
                1 if random.one_in(4) => ledger.prune(0).is_err(),
                _ => {
                    let seq = ledger.next();
                    let many = 1 + random.next() % if random.one_in(5) { 40 } else { 3 };
                    let rows: Vec<Row> = (seq..seq + many).map(|seq| row(seq, life * 100 + step, random)).collect();
                    // More than half of the journal is for nobody.
                    if rows.iter().map(Row::bytes).sum::<usize>() > JOURNAL / 3 {
                        continue;
                    }
                    in_flight = rows;
                    let mut appended = ledger.append(&in_flight);
                    if matches!(appended, Ok(Appended::Full)) && ledger.take().is_ok() {
                        appended = ledger.append(&in_flight);
                    }
                    match appended {
                        Ok(Appended::Durable) => {
                            acknowledged.append(&mut in_flight);
                            false
                        }
                        Ok(Appended::Full) => {
                            in_flight.clear();
                            true
                        }
                        Err(_) => true,
                    }
                }
            };
            if failed {
                // Some disks come back, and some machines go on meanwhile.
                broken = random.one_in(2);
                if broken {
                    break;
                }
                disk.repair();
                ledger.recover().unwrap_or_else(|error| panic!("{when}, step {step}: {error}"));
                in_flight.clear();
                disk.fail_after(random.next() % 60);
            }
        }
        disk.repair();
        if random.one_in(3) && !broken {
            ledger.close("").unwrap();
            disk = Disk::from_images(&disk.images());
            let (ledger, found) = disk.ledger().unwrap();
            assert!(found.closed, "{when}");
            assert_whole(&ledger, &acknowledged, &[], &when);
            continue;
        }
        let images = disk.images_after_power_failure(random);
        for (index, images) in images.iter().enumerate() {
            let when = format!("{when}, image {index}");
            let after = Disk::from_images(images);
            let (ledger, found) = after.ledger().unwrap_or_else(|error| panic!("{when}: {error}"));
            assert!(!found.closed, "{when}");
            assert_whole(&ledger, &acknowledged, &in_flight, &when);
        }
        // Life goes on with one of them.
        disk = Disk::from_images(&images[usize::try_from(random.next() % images.len() as u64).unwrap()]);
        let (ledger, _) = disk.ledger().unwrap();
        acknowledged = assert_whole(&ledger, &acknowledged, &in_flight, &when);
        drop(ledger);
    }
}

#[test]
fn whatever_a_power_failure_leaves_the_log_holds_all_that_was_acknowledged_and_nothing_else() {
    let seeds = std::env::var(SEEDS_VARIABLE).ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    std::thread::scope(|scope| {
        for part in 0..2 {
            scope.spawn(move || (0..seeds).filter(|seed| seed % 2 == part).for_each(run));
        }
    });
}
