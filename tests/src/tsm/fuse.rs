//! The files: what the kernel's drivers/virt/coco and fs/configfs do, call by call.
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use dshield_common::attestation::event::extend;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption,
    OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};

use super::{Report, State, Step};

pub(super) const REPORT: &str = "report";
pub(super) const MEASUREMENTS: &str = "measurements";
const RTMR3: &str = "rtmr3:sha384";

/// Nothing may be remembered: what is there changes under the kernel's feet.
const FRESH: Duration = Duration::ZERO;
const REPORT_FOLDER: u64 = 2;
const MEASUREMENTS_FOLDER: u64 = 3;
const REGISTER: u64 = 4;
/// A report's folder has a multiple of this as its number; its files' numbers follow.
const STRIDE: u64 = 16;
const ATTRIBUTES: [(u64, &str, u16); 4] = [
    (INBLOB, "inblob", 0o200),
    (OUTBLOB, "outblob", 0o400),
    (GENERATION, "generation", 0o444),
    (PROVIDER, "provider", 0o444),
];
const INBLOB: u64 = 1;
const OUTBLOB: u64 = 2;
const GENERATION: u64 = 3;
const PROVIDER: u64 = 4;
/// `TSM_REPORT_INBLOB_MAX`.
const INBLOB_MAX: usize = 64;

/// How it is mounted.
pub(super) fn config() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("dshield-tsm".to_owned()), MountOption::NoExec];
    config
}

pub(super) struct Files {
    state: Arc<Mutex<State>>,
    open: Mutex<Open>,
}

/// Files that are open: what was written to them, and what is read from them.
#[derive(Default)]
struct Open {
    last: u64,
    written: BTreeMap<u64, Vec<u8>>,
    read: BTreeMap<u64, Vec<u8>>,
}

impl Files {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Self {
        Self { state, open: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a maker of quotes panicked")
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nothing panics while it holds this")
    }

    fn find(&self, parent: u64, name: &str) -> Option<u64> {
        match (parent, name) {
            (1, REPORT) => Some(REPORT_FOLDER),
            (1, MEASUREMENTS) => Some(MEASUREMENTS_FOLDER),
            (MEASUREMENTS_FOLDER, RTMR3) => Some(REGISTER),
            (REPORT_FOLDER, _) => {
                self.state().reports.iter().find(|(_, report)| report.name == name).map(|(number, _)| *number)
            }
            _ => {
                let there = parent.is_multiple_of(STRIDE) && self.state().reports.contains_key(&parent);
                let file = ATTRIBUTES.iter().find(|(_, known, _)| there && *known == name);
                file.map(|(offset, ..)| parent + offset)
            }
        }
    }

    /// The whole of a file, made when it is first read.
    fn contents(&self, number: u64) -> Result<Vec<u8>, i32> {
        let mut state = self.state();
        if number == REGISTER {
            return state.fault(Step::Register).map_or_else(|| Ok(state.rtmr3.to_vec()), Err);
        }
        let folder = number - number % STRIDE;
        // configfs_read_iter: the item went away under an open file.
        if !state.reports.contains_key(&folder) {
            return Err(libc::ENOENT);
        }
        let step = match number % STRIDE {
            OUTBLOB => Step::Read,
            GENERATION => Step::Generation,
            _ => Step::Provider,
        };
        if let Some(errno) = state.fault(step) {
            return Err(errno);
        }
        let disturbed = step == Step::Read && state.disturbances > 0;
        state.disturbances -= u32::from(disturbed);
        let State { reports, maker, provider, rtmr3, .. } = &mut *state;
        let report = reports.get_mut(&folder).ok_or(libc::ENOENT)?;
        if disturbed {
            report.generation += 1;
            report.inblob = vec![0xaa; INBLOB_MAX];
        }
        match step {
            Step::Generation => Ok(format!("{}\n", report.generation).into_bytes()),
            Step::Provider => Ok(format!("{provider}\n").into_bytes()),
            _ => {
                let inblob = report.inblob[..].try_into().map_err(|_| libc::EINVAL)?;
                Ok(maker(inblob, rtmr3))
            }
        }
    }
}

fn errno(number: i32) -> Errno {
    Errno::from_i32(number)
}

fn attributes(number: u64) -> FileAttr {
    let folder =
        number == 1 || number == REPORT_FOLDER || number == MEASUREMENTS_FOLDER || number.is_multiple_of(STRIDE);
    let file = ATTRIBUTES.iter().find(|(offset, ..)| *offset == number % STRIDE);
    let perm = if folder { 0o755 } else { file.map_or(0o644, |(.., perm)| *perm) };
    FileAttr {
        ino: INodeNo(number),
        size: if folder { 0 } else { 4096 },
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if folder { FileType::Directory } else { FileType::RegularFile },
        perm: if number == REGISTER { 0o644 } else { perm },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent.0, &name.to_string_lossy()) {
            Some(number) => reply.entry(&FRESH, &attributes(number), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FRESH, &attributes(number.0));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let mut state = self.state();
        if parent.0 != REPORT_FOLDER {
            return reply.error(Errno::EPERM);
        }
        if let Some(number) = state.fault(Step::Create) {
            return reply.error(errno(number));
        }
        state.created += 1;
        let number = u64::from(state.created) * STRIDE;
        state.reports.insert(number, Report { name: name.to_string_lossy().into_owned(), ..Report::default() });
        reply.entry(&FRESH, &attributes(number), Generation(0));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(number) = self.find(parent.0, &name.to_string_lossy()).filter(|_| parent.0 == REPORT_FOLDER) else {
            return reply.error(Errno::EPERM);
        };
        let mut state = self.state();
        match state.fault(Step::Remove) {
            Some(number) => reply.error(errno(number)),
            None => {
                state.reports.remove(&number);
                reply.ok();
            }
        }
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut entries = vec![(number.0, ".".to_owned()), (1, "..".to_owned())];
        match number.0 {
            1 => entries.extend([(REPORT_FOLDER, REPORT.to_owned()), (MEASUREMENTS_FOLDER, MEASUREMENTS.to_owned())]),
            MEASUREMENTS_FOLDER => entries.push((REGISTER, RTMR3.to_owned())),
            REPORT_FOLDER => {
                entries.extend(self.state().reports.iter().map(|(number, report)| (*number, report.name.clone())));
            }
            folder => entries.extend(ATTRIBUTES.map(|(offset, name, _)| (folder + offset, name.to_owned()))),
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (number, name)) in entries.into_iter().enumerate().skip(from) {
            if reply.add(INodeNo(number), index as u64 + 1, attributes(number).kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        // configfs goes by the file's mode, even for root (__configfs_open_file).
        let perm = attributes(number.0).perm;
        let (reads, writes) = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => (true, false),
            OpenAccMode::O_WRONLY => (false, true),
            OpenAccMode::O_RDWR => (true, true),
        };
        if (reads && perm & 0o444 == 0) || (writes && perm & 0o222 == 0) {
            return reply.error(Errno::EACCES);
        }
        let mut open = self.open();
        open.last += 1;
        reply.opened(FileHandle(open.last), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let kept = self.open().read.get(&handle.0).cloned();
        let contents = match kept.map_or_else(|| self.contents(number.0), Ok) {
            Ok(contents) => contents,
            Err(number) => return reply.error(errno(number)),
        };
        let from = usize::try_from(offset).map_or(contents.len(), |from| from.min(contents.len()));
        let to = contents.len().min(from + size as usize);
        reply.data(&contents[from..to]);
        self.open().read.insert(handle.0, contents);
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        if number.0 == REGISTER {
            // tm_digest_write
            let Some(digest) = <&[u8; 48]>::try_from(data).ok().filter(|_| offset == 0) else {
                return reply.error(Errno::EINVAL);
            };
            if let Some(number) = state.fault(Step::Extend) {
                return reply.error(errno(number));
            }
            state.rtmr3 = extend(&state.rtmr3, digest);
            return match state.fault(Step::ExtendAndFail) {
                Some(number) => reply.error(errno(number)),
                None => reply.written(48),
            };
        }
        if !state.reports.contains_key(&(number.0 - number.0 % STRIDE)) {
            return reply.error(Errno::ENOENT);
        }
        if let Some(number) = state.fault(Step::Write) {
            return reply.error(errno(number));
        }
        // configfs_bin_write_iter: gathered until the file is closed.
        let end = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(data.len());
        if end > INBLOB_MAX {
            return reply.error(Errno::EFBIG);
        }
        let mut open = self.open();
        let written = open.written.entry(handle.0).or_default();
        written.resize(end.max(written.len()), 0);
        written[end - data.len()..end].copy_from_slice(data);
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    /// `close` waits for this; what it answers is nobody's concern in configfs (configfs_release_bin_file).
    fn flush(&self, _: &Request, number: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        if let Some(written) = self.open().written.remove(&handle.0) {
            let mut state = self.state();
            let refused = state.fault(Step::Commit).is_some();
            if let Some(report) = state.reports.get_mut(&(number.0 - number.0 % STRIDE)).filter(|_| !refused) {
                report.generation += 1;
                report.inblob = written;
            }
        }
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.open().read.remove(&handle.0);
        reply.ok();
    }
}
