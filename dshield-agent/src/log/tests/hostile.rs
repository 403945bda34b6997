//! Functions that choose what entries say, and a host that owns the disk: the agent lives, and an auditor gets true
//! entries or none.
use std::fs;

use super::disk::{Disk, Images, Random};
use super::*;
use crate::log::journal::{Appended, Journal};
use crate::log::row::Row;

const PAGE: usize = 4096;
const ID: [u8; 32] = [b'1'; 32];

/// Text that says it is the header of a frame of each generation that there is, at the beginning of each page.
fn frames(pages: usize) -> String {
    let mut text = String::new();
    for page in 0..pages {
        let generation = u8::try_from(page % 4).unwrap();
        text.push_str("dsjrnlF1\0\0\0\0\0\0\0");
        text.push(char::from(generation));
        text.extend(std::iter::repeat_n('\0', PAGE - 16));
    }
    text
}

/// A frame in which entry text begins right at a page border.
fn hostile_row(pages: usize) -> Row {
    // Header of the frame, then two lengths and the signature.
    let before = "x".repeat(PAGE - 64 - 4 - 2 - 3);
    Row::new(&(before + &frames(pages)), &[1, 2, 3])
}

#[test]
fn text_that_looks_like_frames_at_page_borders_is_only_text() {
    let disk = Disk::with_journal(64 * PAGE);
    let mut journal = Journal::open(disk.journal(), &ID, 0).unwrap().0;
    let rows: Vec<Row> = (1..6).map(hostile_row).collect();
    for (seq, row) in (0..).zip(&rows) {
        assert_eq!(journal.append(seq, std::slice::from_ref(row), 0).unwrap(), Appended::Durable);
    }
    let [database, whole] = disk.images();
    assert_eq!(Journal::open(disk.journal(), &ID, 0).unwrap().1, rows);
    // Each page of the last frame torn off in turn: what it said in its text stays nobody's frame.
    let used = whole.chunks(PAGE).rposition(|page| page.iter().any(|byte| *byte != 0)).unwrap();
    for page in used - 5..=used {
        let mut torn = whole.clone();
        torn[page * PAGE..(page + 1) * PAGE].fill(0);
        let disk = Disk::from_images(&[database.clone(), torn]);
        assert_eq!(Journal::open(disk.journal(), &ID, 0).unwrap().1, rows[..4], "page {page}");
    }
}

/// A log that was killed when its database had nothing of its second boot, with what an auditor would have seen of it.
async fn killed() -> (Images, Vec<String>) {
    let disk = Disk::with_journal(32 * PAGE);
    let start = |disk: &Disk| {
        let (ledger, found) = disk.ledger().unwrap();
        Log::start(ledger, Some(found), "5".repeat(32), facts()).unwrap()
    };
    let log = start(&disk);
    log.append(record(1)).await.unwrap();
    log.close().await;
    let log = start(&disk);
    // The keeper does not get there.
    disk.stall_database();
    for id in 0..12 {
        log.append(record(id)).await.unwrap();
    }
    log.append(Record::agent(Event::Lost { count: 1, source: "y".repeat(9000) })).await.unwrap();
    log.append(record(99)).await.unwrap();
    let left = (disk.images(), lines(&log).await);
    disk.resume();
    left
}

#[tokio::test]
async fn no_changed_byte_of_the_journal_gets_a_false_entry_past_the_verifier() {
    let (images, truth) = killed().await;
    let [database, whole] = &images;
    let places = (0..whole.len()).step_by(PAGE).filter(|page| whole[*page] != 0).flat_map(|page| {
        // Header, where it is dense, and a sample of the rest.
        (0..130).step_by(7).chain((130..PAGE).step_by(311)).map(move |byte| page + byte)
    });
    let (mut refused, mut shorter) = (0, 0);
    for place in places {
        let mut changed = whole.clone();
        changed[place] ^= 0x04;
        let disk = Disk::from_images(&[database.clone(), changed]);
        let Ok((ledger, found)) = disk.ledger() else {
            refused += 1;
            continue;
        };
        let log = Log::start(ledger, Some(found), "6".repeat(32), facts()).unwrap();
        let found = lines(&log).await;
        verify_lines(&found, Expectations::default()).unwrap_or_else(|fault| panic!("byte {place}: {fault}"));
        let before = found.len() - 1;
        assert_eq!(found[..before], truth[..before], "byte {place}");
        // Only the last frame may look torn.
        assert!(before + 1 >= truth.len(), "byte {place}: {before} of {} entries", truth.len());
        shorter += usize::from(before < truth.len());
    }
    assert!(refused > 30 && shorter > 5, "{refused} refused, {shorter} shorter");
}

#[tokio::test]
async fn a_journal_with_random_bytes_gives_true_entries_or_none() {
    let (images, truth) = killed().await;
    let random = &mut Random::new(11);
    for turn in 0..200 {
        let mut changed = images[1].clone();
        for _ in 0..1 + random.next() % 40 {
            let place = usize::try_from(random.next()).unwrap() % changed.len();
            let length = usize::try_from(random.next()).unwrap() % 700;
            for byte in changed.iter_mut().skip(place).take(length) {
                *byte = random.next().to_be_bytes()[0];
            }
        }
        let Ok((ledger, _)) = Disk::from_images(&[images[0].clone(), changed]).ledger() else { continue };
        let found = ledger.rows(0, usize::MAX, usize::MAX).unwrap();
        let found: Vec<_> = (0..).zip(&found).map(|(seq, row)| row.line(seq)).collect();
        assert_eq!(found[..], truth[..found.len()], "turn {turn}");
    }
}

fn refusal(path: &Path) -> String {
    Log::open(Storage::File(path.to_owned()), facts()).expect_err("it opened").to_string()
}

/// A folder's two files as they were after each of four boots.
struct Copies {
    folder: tempfile::TempDir,
    databases: Vec<Vec<u8>>,
    journals: Vec<Vec<u8>>,
}

impl Copies {
    async fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut copies = Self { folder, databases: Vec::new(), journals: Vec::new() };
        for boot in 0..4 {
            let log = open(&copies.path());
            for id in 0..10 {
                log.append(record(boot * 100 + id)).await.unwrap();
            }
            log.close().await;
            copies.databases.push(fs::read(copies.path()).unwrap());
            copies.journals.push(fs::read(copies.journal()).unwrap());
        }
        copies
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("log.redb")
    }

    fn journal(&self) -> std::path::PathBuf {
        self.folder.path().join("log.journal")
    }

    fn put(&self, database: usize, journal: usize) {
        fs::write(self.path(), &self.databases[database]).unwrap();
        fs::write(self.journal(), &self.journals[journal]).unwrap();
    }
}

#[tokio::test]
async fn an_older_journal_beside_a_newer_database_takes_nothing_away() {
    let copies = Copies::make().await;
    for journal in 0..4 {
        copies.put(3, journal);
        let log = open(&copies.path());
        assert_eq!(verify(&log).await.entries, 45);
        assert_eq!(boot(&lines(&log).await[44]).previous.unwrap().closed, Some(true));
        log.close().await;
    }
}

#[tokio::test]
async fn an_older_database_beside_a_newer_journal_gets_what_it_lacks_or_is_refused() {
    let copies = Copies::make().await;
    // A journal has the last two boots.
    for database in [1, 2] {
        copies.put(database, 3);
        let log = open(&copies.path());
        assert_eq!(verify(&log).await.entries, 45);
        // Nobody closed it so.
        assert_eq!(boot(&lines(&log).await[44]).previous.unwrap().closed, Some(false));
        log.close().await;
    }
    copies.put(0, 3);
    for _ in 0..2 {
        let said = refusal(&copies.path());
        assert!(said.contains("log.journal") && said.contains("entries 11 to 21 are not readable"), "{said}");
    }
}

#[tokio::test]
async fn a_journal_of_another_log_or_without_its_size_is_refused() {
    let (copies, other) = (Copies::make().await, Copies::make().await);
    copies.put(3, 3);
    fs::write(copies.journal(), &other.journals[3]).unwrap();
    assert!(refusal(&copies.path()).contains("belongs to another log"), "{}", refusal(&copies.path()));
    let whole = &copies.journals[3];
    for length in [1, PAGE, whole.len() / 2, whole.len() - 1, whole.len() - 2 * PAGE] {
        fs::write(copies.journal(), &whole[..length]).unwrap();
        let said = refusal(&copies.path());
        assert!(said.contains("log.journal") && said.contains("was made with"), "{said}");
    }
    fs::write(copies.journal(), b"").unwrap();
    assert!(refusal(&copies.path()).contains("it is empty"));
    // Nothing of this was written upon.
    copies.put(3, 3);
    assert_eq!(verify(&open(&copies.path())).await.entries, 45);
}

#[test]
fn of_many_that_start_at_once_on_one_folder_one_gets_the_log() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/log.redb");
        let start = std::sync::Barrier::new(8);
        let opened: Vec<_> = std::thread::scope(|scope| {
            let open = || {
                start.wait();
                Log::open(Storage::File(path.clone()), facts())
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (logs, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
        assert_eq!(logs.len(), 1);
        for error in refused.into_iter().filter_map(Result::err) {
            assert!(matches!(error, LogError::Locked { .. }), "{error}");
        }
        assert_eq!(*logs[0].as_ref().unwrap().head().borrow(), 1);
    }
}
