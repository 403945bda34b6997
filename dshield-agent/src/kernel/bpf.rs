//! The few commands of bpf(2) that aya does not offer, or offers only through files.
//!
//! In: descriptors, ids and paths of pins. Out: what the kernel says about programs, links and maps. Nothing
//! here changes anything but [`update`].
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// enum bpf_cmd, include/uapi/linux/bpf.h, as every number below.
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_MAP_GET_FD_BY_ID: libc::c_int = 14;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;

/// `BPF_LINK_TYPE_CGROUP`.
pub const LINK_CGROUP: u32 = 3;
/// `BPF_LINK_TYPE_NETNS`.
pub const LINK_NETNS: u32 = 5;

/// The programs that can be listed at one place: far more than the 64 that a cgroup takes.
const MOST_PROGRAMS: usize = 512;
/// The maps that one program of ours may use.
const MOST_MAPS: usize = 64;

/// A program, as the kernel knows it. What it does cannot change; which maps are bound to it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Unique while the machine runs.
    pub id: u32,
    /// `enum bpf_prog_type`.
    pub kind: u32,
    /// The kernel's hash of the instructions.
    pub tag: [u8; 8],
    /// Its name, cut off after 15 bytes.
    pub name: String,
    /// Ids of its maps.
    pub maps: Vec<u32>,
}

/// A link, as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Unique while the machine runs.
    pub id: u32,
    /// `enum bpf_link_type`.
    pub kind: u32,
    /// The program that it attaches: can be exchanged.
    pub program: u32,
    /// The id of the cgroup or the inode of the network namespace; 0 when it was detached.
    pub target: u64,
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
}

/// A map, as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Unique while the machine runs.
    pub id: u32,
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Its name, cut off after 15 bytes.
    pub name: String,
}

/// What `BPF_OBJ_GET_INFO_BY_FD` can tell.
pub trait Info: Sized + PartialEq {
    /// What the word is for such a thing.
    const WHAT: &'static str;

    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel's answer.
    fn of(fd: BorrowedFd<'_>) -> io::Result<Self>;
}

/// Opens what is pinned at `path`.
///
/// # Errors
/// The kernel's answer, such as that nothing is pinned there.
pub fn get(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the layout is the command's; the path ends with NUL and outlives the call.
    unsafe { bpf_fd(BPF_OBJ_GET, &mut attr) }
}

/// Opens the program with this id.
///
/// # Errors
/// The kernel's answer, such as that there is none.
pub fn program(id: u32) -> io::Result<OwnedFd> {
    by_id(BPF_PROG_GET_FD_BY_ID, id)
}

/// Opens the map with this id.
///
/// # Errors
/// The kernel's answer, such as that there is none.
pub fn map(id: u32) -> io::Result<OwnedFd> {
    by_id(BPF_MAP_GET_FD_BY_ID, id)
}

fn by_id(command: libc::c_int, id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    // SAFETY: the layout is the command's, which has no pointer.
    unsafe { bpf_fd(command, &mut Attr { id, next_id: 0, open_flags: 0 }) }
}

/// The ids of the programs that are attached to `target` with this attach type, in the order in which they run.
///
/// # Errors
/// The kernel's answer; `EINVAL` where it does not know the attach type.
pub fn query(target: BorrowedFd<'_>, attach_type: u32, flags: u32) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Attr {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        reserved: u32,
        // Newer kernels write up to here, whatever length was given.
        newer: [u64; 4],
    }
    let mut ids = vec![0u32; MOST_PROGRAMS];
    let mut attr = Attr {
        target_fd: number(target),
        attach_type,
        query_flags: flags,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MOST_PROGRAMS as u32,
        reserved: 0,
        newer: [0; 4],
    };
    // SAFETY: the layout is the command's; `prog_ids` has room for `prog_cnt` ids and outlives the call.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr)? };
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// The value of a map that is keyed by number and has values of eight bytes.
///
/// # Errors
/// The kernel's answer; `ENOENT` when there is no such element.
pub fn lookup(map: BorrowedFd<'_>, key: u32) -> io::Result<u64> {
    let mut value = 0;
    element(BPF_MAP_LOOKUP_ELEM, map, key, &mut value)?;
    Ok(value)
}

/// Sets the value of a map that is keyed by number and has values of eight bytes.
///
/// # Errors
/// The kernel's answer.
pub fn update(map: BorrowedFd<'_>, key: u32, mut value: u64) -> io::Result<()> {
    element(BPF_MAP_UPDATE_ELEM, map, key, &mut value)
}

fn element(command: libc::c_int, map: BorrowedFd<'_>, key: u32, value: &mut u64) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        map_fd: u32,
        reserved: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let sizes = words::<6>(map)?;
    // bpf_map_info: type, id, key_size, value_size: the kernel reads and writes that many bytes.
    if (sizes[2], sizes[3]) != (4, 8) {
        return Err(io::Error::other("a map with keys and values of another size"));
    }
    let mut attr = Attr {
        map_fd: number(map),
        reserved: 0,
        key: (&raw const key) as u64,
        value: (value as *mut u64) as u64,
        flags: 0,
    };
    // SAFETY: the layout is the command's; key and value have the map's sizes and outlive the call.
    unsafe { bpf(command, &mut attr).map(drop) }
}

impl Info for ProgramInfo {
    const WHAT: &'static str = "program";

    fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // struct bpf_prog_info: type, id, tag[8], …, nr_map_ids at byte 52, map_ids at 56, name[16] at 64.
        let mut maps = vec![0u32; MOST_MAPS];
        let mut info = [0u32; 20];
        info[13] = MOST_MAPS as u32;
        let pointer = (maps.as_mut_ptr() as u64).to_ne_bytes();
        info[14] = u32::from_ne_bytes([pointer[0], pointer[1], pointer[2], pointer[3]]);
        info[15] = u32::from_ne_bytes([pointer[4], pointer[5], pointer[6], pointer[7]]);
        // SAFETY: the only length given besides a pointer is that of `maps`, which outlives the call.
        unsafe { ask(fd, &mut info)? };
        maps.truncate(info[13] as usize);
        let mut tag = [0; 8];
        tag[..4].copy_from_slice(&info[2].to_ne_bytes());
        tag[4..].copy_from_slice(&info[3].to_ne_bytes());
        Ok(Self { id: info[1], kind: info[0], tag, name: name(&info[16..20]), maps })
    }
}

impl Info for LinkInfo {
    const WHAT: &'static str = "link";

    fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // struct bpf_link_info: type, id, prog_id, padding, then by type: cgroup_id (8 bytes), attach_type; or
        // netns_ino, attach_type.
        let [kind, id, program, _, first, second, third, _] = words(fd)?;
        let (target, attach_type) = match kind {
            LINK_NETNS => (first.into(), second),
            _ => (u64::from_ne_bytes(join(first, second)), third),
        };
        Ok(Self { id, kind, program, target, attach_type })
    }
}

impl Info for MapInfo {
    const WHAT: &'static str = "map";

    fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // struct bpf_map_info: type, id, key_size, value_size, max_entries, map_flags, name[16].
        let info = words::<10>(fd)?;
        Ok(Self { id: info[1], kind: info[0], name: name(&info[6..10]) })
    }
}

fn words<const N: usize>(fd: BorrowedFd<'_>) -> io::Result<[u32; N]> {
    let mut info = [0; N];
    // SAFETY: all zero, so it holds no pointer.
    unsafe { ask(fd, &mut info)? };
    Ok(info)
}

/// # Safety
/// Pointers that are in `info` already have the lengths that are in `info`, and outlive the call.
unsafe fn ask(fd: BorrowedFd<'_>, info: &mut [u32]) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut attr = Attr { bpf_fd: number(fd), info_len: size_of_val(info) as u32, info: info.as_mut_ptr() as u64 };
    // SAFETY: the layout is the command's; the kernel writes at most `info_len` bytes, and the caller vouches for
    // what `info` points to.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop) }
}

/// # Safety
/// `attr` has the layout of the command's part of `union bpf_attr`, and every pointer in it is valid for the
/// length that goes with it.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller vouches for what `attr` holds; its length is given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// # Safety
/// As [`bpf`]; and the command returns a new descriptor.
unsafe fn bpf_fd<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller says; the descriptor is new, so nobody else owns it.
    unsafe {
        let fd = bpf(command, attr)?;
        Ok(OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?))
    }
}

/// A descriptor as the kernel's structs want it; an open one is never negative.
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn join(first: u32, second: u32) -> [u8; 8] {
    let (first, second) = (first.to_ne_bytes(), second.to_ne_bytes());
    [first[0], first[1], first[2], first[3], second[0], second[1], second[2], second[3]]
}

fn name(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0);
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_at_its_first_zero() {
        let bytes = *b"ds_connect4\0\0\0\0\0";
        let words: Vec<_> =
            bytes.chunks_exact(4).map(|four| u32::from_ne_bytes([four[0], four[1], four[2], four[3]])).collect();
        assert_eq!(name(&words), "ds_connect4");
        assert_eq!(join(words[0], words[1]), *b"ds_conne");
    }
}
