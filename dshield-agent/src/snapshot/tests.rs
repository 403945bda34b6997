use std::fs::{self, File, FileTimes, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use dshield_common::attestation::code::Manifest;
use dshield_common::policy::{Deployment, FunctionPolicy};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::copy::{Fault, Target, copy};
use super::*;

/// A change to a folder of code, by name.
type Spoil<'a> = (&'a str, &'a dyn Fn(&Path));

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: not root: nobody else mounts file systems");
    }
    root
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// One of each kind.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir_all(path.join("lib/empty")).unwrap();
    fs::write(path.join("app.py"), "print(1)\n").unwrap();
    fs::write(path.join("lib/run me"), "#!/bin/sh\n").unwrap();
    fs::write(path.join(std::ffi::OsStr::from_bytes(b"lib/\xff%")), "").unwrap();
    mode(&path.join("lib/run me"), 0o700);
    symlink("../app.py", path.join("lib/link")).unwrap();
    folder
}

fn hash(folder: &Path) -> String {
    copy(folder, None).unwrap().hash().to_string()
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// Copies `from` into a new folder.
fn copied(from: &Path) -> (TempDir, Result<Manifest, Fault>) {
    let to = tempfile::tempdir().unwrap();
    let manifest = copy(from, Some(Target { root: open(to.path()), before: None }));
    (to, manifest)
}

#[test]
fn a_copy_is_what_its_hash_says_and_everybody_may_read_it() {
    let folder = folder();
    let from = folder.path();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234_567_890_500);
    let source = File::options().write(true).open(from.join("app.py")).unwrap();
    source.set_times(FileTimes::new().set_modified(long_ago)).unwrap();
    mode(&from.join("app.py"), 0o4600);
    let (to, manifest) = copied(from);
    let manifest = manifest.unwrap();
    assert_eq!(manifest, copy(from, None).unwrap(), "hashed with and without a copy");
    assert_eq!(manifest, copy(to.path(), None).unwrap(), "the copy's own hash");
    let text = manifest.text();
    let ends = |line: &str| [line.split(' ').next().unwrap(), line.split(' ').next_back().unwrap()].join(" ");
    let lines: Vec<_> = text.lines().skip(1).map(ends).collect();
    assert_eq!(lines, ["file app.py", "dir lib/empty", "link lib/link", "file lib/run%20me", "file lib/%FF%25"]);
    for (path, expected) in [("app.py", 0o100_644), ("lib", 0o040_755), ("lib/run me", 0o100_755)] {
        let metadata = fs::metadata(to.path().join(path)).unwrap();
        assert_eq!(metadata.mode(), expected, "{path}");
    }
    assert_eq!(fs::read_link(to.path().join("lib/link")).unwrap(), Path::new("../app.py"));
    assert_eq!(fs::metadata(to.path().join("app.py")).unwrap().modified().unwrap(), long_ago);
}

#[test]
fn name_content_execution_link_and_empty_folder_count_and_nothing_else() {
    let spoils: [Spoil<'_>; 7] = [
        ("content", &|code| fs::write(code.join("app.py"), "print(2)\n").unwrap()),
        ("a name", &|code| fs::rename(code.join("app.py"), code.join("ap.py")).unwrap()),
        ("another file", &|code| fs::write(code.join("new"), "").unwrap()),
        ("execution", &|code| mode(&code.join("app.py"), 0o645)),
        ("no execution", &|code| mode(&code.join("lib/run me"), 0o600)),
        ("a link", &|code| {
            fs::remove_file(code.join("lib/link")).unwrap();
            symlink("./../app.py", code.join("lib/link")).unwrap();
        }),
        ("an empty folder", &|code| fs::remove_dir(code.join("lib/empty")).unwrap()),
    ];
    let before = hash(folder().path());
    let mut seen = vec![before.clone()];
    for (what, spoil) in spoils {
        let folder = folder();
        spoil(folder.path());
        let after = hash(folder.path());
        assert!(!seen.contains(&after), "{what} does not count");
        seen.push(after);
    }
    let same: [Spoil<'_>; 4] = [
        ("times", &|code| File::open(code.join("app.py")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap()),
        ("permissions", &|code| mode(&code.join("lib/run me"), 0o4711)),
        ("another place", &|code| {
            fs::rename(code.join("lib"), code.join("moved")).unwrap();
            fs::create_dir(code.join("lib")).unwrap();
            for entry in fs::read_dir(code.join("moved")).unwrap() {
                let name = entry.unwrap().file_name();
                fs::rename(code.join("moved").join(&name), code.join("lib").join(&name)).unwrap();
            }
            fs::remove_dir(code.join("moved")).unwrap();
        }),
        ("an owner", &|code| {
            if root() {
                lchown(code.join("app.py"), Some(65534), Some(65534)).unwrap();
            }
        }),
    ];
    for (what, change) in same {
        let folder = folder();
        change(folder.path());
        assert_eq!(hash(folder.path()), before, "{what}");
    }
}

#[test]
fn names_of_one_file_stay_that_and_hash_like_several_files() {
    let (folder, apart) = (folder(), folder());
    fs::hard_link(folder.path().join("app.py"), folder.path().join("lib/again")).unwrap();
    fs::copy(apart.path().join("app.py"), apart.path().join("lib/again")).unwrap();
    let (to, manifest) = copied(folder.path());
    assert_eq!(manifest.unwrap().hash().to_string(), hash(apart.path()));
    let inode = |path: &str| fs::metadata(to.path().join(path)).unwrap().ino();
    assert_eq!(inode("app.py"), inode("lib/again"));
}

#[test]
fn holes_stay_holes_and_hash_like_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let (sparse, dense) = (folder.path().join("a"), folder.path().join("b"));
    let content = |file: File| {
        std::os::unix::fs::FileExt::write_all_at(&file, b"in the middle", 30 << 20).unwrap();
        file.set_len((64 << 20) + 7).unwrap();
    };
    content(File::create(&sparse).unwrap());
    fs::write(&dense, vec![0; 64 << 20]).unwrap();
    content(File::options().write(true).open(&dense).unwrap());
    let (to, manifest) = copied(folder.path());
    let manifest = manifest.unwrap();
    assert_eq!(manifest.get(b"a"), manifest.get(b"b"));
    for name in ["a", "b"] {
        let metadata = fs::metadata(to.path().join(name)).unwrap();
        assert_eq!(metadata.len(), (64 << 20) + 7);
        assert!(metadata.blocks() * 512 < 1 << 20, "{name}: {} blocks", metadata.blocks());
    }
}

#[test]
fn the_limits_hold_for_what_is_copied() {
    let large = tempfile::tempdir().unwrap();
    File::create(large.path().join("large")).unwrap().set_len((1 << 30) + 1).unwrap();
    let many = tempfile::tempdir().unwrap();
    // File systems take some ten thousand names of one file.
    for file in 0..=4 {
        let first = many.path().join(file.to_string());
        fs::write(&first, "").unwrap();
        (0..20_000).for_each(|name| fs::hard_link(&first, many.path().join(format!("{file}-{name}"))).unwrap());
    }
    let pipe = folder();
    mkfifo(&pipe.path().join("lib/pipe"), Mode::S_IRWXU).unwrap();
    for (folder, words) in [
        (&large, "is larger than 1 GiB: with FOLDER/large it has at least 1073741825 bytes"),
        (&many, "holds more than 100000 files and folders"),
        (&pipe, "FOLDER/lib/pipe is a named pipe, which is no code"),
    ] {
        let Err(Fault::Unfit(unfit)) = copy(folder.path(), None) else { panic!("{words}") };
        let words = words.replace("FOLDER", folder.path().to_str().unwrap());
        assert!(unfit.message.contains(&words), "{}", unfit.message);
    }
}

/// What somebody does who can write to the code folder and wants to see `outside` in the copy.
fn disturb(code: &Path, outside: &Path, done: &AtomicBool) {
    let (a, b) = (code.join("a"), code.join("b"));
    // Each step fails where the one before left something else: the next round puts it right.
    while !done.load(Ordering::Relaxed) {
        let _ = fs::rename(&a, &b);
        let _ = symlink(outside, &a);
        let _ = fs::remove_file(&a);
        let _ = fs::rename(&b, &a);
        let (file, away) = (a.join("file"), a.join("away"));
        let _ = fs::rename(&file, &away);
        let _ = symlink(outside.join("file"), &file);
        let _ = fs::remove_file(&file);
        let _ = mkfifo(&file, Mode::S_IRWXU);
        let _ = fs::remove_file(&file);
        let _ = fs::rename(&away, &file);
        let _ = fs::write(a.join("grows"), "x".repeat(200_000));
        let _ = fs::write(a.join("grows"), "y".repeat(100_000));
        let _ = fs::remove_file(a.join("grows"));
    }
}

#[test]
fn a_folder_that_is_being_changed_leads_nowhere_and_its_copy_is_what_was_hashed() {
    let (code, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (folder, text) in [(code.path().join("a"), "inside"), (outside.path().to_owned(), "the secret")] {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("file"), text).unwrap();
        fs::write(folder.join(text), "").unwrap();
    }
    let done = AtomicBool::new(false);
    let (mut whole, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let _ends = AtLast(&done);
        scope.spawn(|| disturb(code.path(), outside.path(), &done));
        let begun = Instant::now();
        while whole < 300 && begun.elapsed() < Duration::from_secs(30) {
            let (to, manifest) = copied(code.path());
            match manifest {
                Ok(manifest) => {
                    assert_eq!(copy(to.path(), None).unwrap(), manifest, "the hash is not of what was written");
                    assert_eq!(secrets(to.path()), Vec::<PathBuf>::new());
                    whole += 1;
                }
                Err(Fault::Unfit(unfit)) => {
                    assert!(unfit.message.contains("a named pipe"), "{}", unfit.message);
                    refused += 1;
                }
                Err(Fault::Keep(error)) => panic!("{error}"),
            }
        }
    });
    assert!(whole >= 20, "{whole} copies, {refused} refused");
}

#[test]
fn a_file_that_is_being_written_to_is_hashed_as_it_was_copied() {
    let code = tempfile::tempdir().unwrap();
    let length = 4 << 20;
    fs::write(code.path().join("file"), vec![0; length]).unwrap();
    let file = File::options().write(true).open(code.path().join("file")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = AtLast(&done);
        scope.spawn(|| {
            // A step that comes to every part of the file soon.
            let places = (0_u64..).map(|round| (round * 1_000_003) % length as u64);
            for (place, byte) in places.zip((1..=255).cycle()).take_while(|_| !done.load(Ordering::Relaxed)) {
                std::os::unix::fs::FileExt::write_all_at(&file, &[byte], place).unwrap();
            }
        });
        for _ in 0..20 {
            let (to, manifest) = copied(code.path());
            assert_eq!(copy(to.path(), None).unwrap(), manifest.unwrap(), "the hash is not of what was written");
        }
    });
}

/// Set when the test ends, however it does.
struct AtLast<'a>(&'a AtomicBool);

impl Drop for AtLast<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whatever in a copy comes from outside.
fn secrets(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(secrets(&path));
        } else if path.ends_with("the secret") || metadata.is_file() && fs::read(&path).unwrap() == b"the secret" {
            found.push(path);
        }
    }
    found
}

/// A store in a folder of its own.
struct Mounted {
    folder: TempDir,
    store: Store,
}

impl Mounted {
    fn new(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::mount_with(folder.path(), options).unwrap();
        Self { folder, store }
    }

    fn entries(&self) -> Vec<PathBuf> {
        fs::read_dir(self.folder.path().join("code")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.folder.path().join("code"), MntFlags::MNT_DETACH);
    }
}

fn loaded(name: &str, code: &Path) -> Arc<LoadedFunction> {
    let text = format!("[[function]]\nname = \"{name}\"\nruntime = \"python3\"\ncode = \"x\"\n");
    let deployment = Deployment::parse(&text, &mut |_| Err(String::new())).unwrap();
    let policy: Arc<FunctionPolicy> = deployment.policy.functions[0].clone();
    Arc::new(LoadedFunction { spec: deployment.functions[0].clone(), code: code.canonicalize().unwrap(), policy })
}

#[test]
fn a_snapshot_keeps_each_folder_once_and_shares_with_the_one_before_what_is_the_same() {
    if !root() {
        return;
    }
    let (mounted, folder) = (Mounted::new(""), folder());
    let functions = [loaded("f", folder.path()), loaded("g", folder.path())];
    let first = mounted.store.take(&functions, None).unwrap();
    let [f, g] = first.functions() else { panic!("two") };
    assert_eq!((f.spec.name.as_str(), g.spec.name.as_str(), &f.code), ("f", "g", &g.code));
    let hashes = functions.iter().map(|function| (function.spec.name.to_string(), hash(folder.path()))).collect();
    assert_eq!(measure(&functions).unwrap(), hashes);
    assert_eq!((&f.code_sha256, &g.code_sha256), (&hashes["f"], &hashes["g"]));

    fs::write(folder.path().join("app.py"), "print(2)\n").unwrap();
    mode(&folder.path().join("lib/run me"), 0o644);
    let second = mounted.store.take(&functions[..1], Some(&first)).unwrap();
    let (old, new) = (&f.code, &second.functions()[0].code);
    let inode = |code: &Path, path: &str| fs::metadata(code.join(path)).unwrap().ino();
    let odd = Path::new(std::ffi::OsStr::from_bytes(b"lib/\xff%"));
    assert_eq!(fs::metadata(old.join(odd)).unwrap().ino(), fs::metadata(new.join(odd)).unwrap().ino());
    assert_ne!(inode(old, "app.py"), inode(new, "app.py"));
    assert_ne!(inode(old, "lib/run me"), inode(new, "lib/run me"));
    assert_eq!(fs::read_to_string(old.join("app.py")).unwrap(), "print(1)\n");
    assert_eq!(second.functions()[0].code_sha256, hash(folder.path()));
    let new = new.clone();
    drop(first);
    assert_eq!(hash(&new), second.functions()[0].code_sha256, "what was shared is still there");
    assert_eq!(mounted.entries().len(), 1);
    drop(second);
    assert_eq!(mounted.entries(), Vec::<PathBuf>::new());
}

#[test]
fn nothing_is_left_of_a_snapshot_that_does_not_fit_and_the_error_names_the_sizes() {
    if !root() {
        return;
    }
    let (mounted, folder) = (Mounted::new(",size=4m"), folder());
    let small = mounted.store.take(&[loaded("f", folder.path())], None).unwrap();
    fs::write(folder.path().join("model"), vec![1; 5 << 20]).unwrap();
    let error = mounted.store.take(&[loaded("f", folder.path())], Some(&small)).unwrap_err().to_string();
    let expected = format!(
        "the code of `f` does not fit into memory: {} holds 6 MiB, and of the 4 MiB that code may take on this machine 3 MiB were free; leave out what the functions do not need, or give the machine more memory",
        folder.path().canonicalize().unwrap().display()
    );
    assert_eq!(error, expected);
    assert_eq!(mounted.entries().len(), 1, "the one before stays");
    fs::write(folder.path().join("model"), vec![1; 2 << 20]).unwrap();
    let _fits = mounted.store.take(&[loaded("f", folder.path())], Some(&small)).unwrap();
}
