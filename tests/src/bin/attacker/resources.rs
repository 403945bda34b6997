//! More of everything than an instance may have. Each attempt stops by itself at its goal.
use std::fs::File;
use std::io::Write;

use crate::Got;

/// Where the kernel's `core_pattern` is a plain file name: in the folder where it crashes (core(5)).
pub fn core_dump() -> Got {
    let folder = "/tmp/crash";
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    // As much as it may.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit outlives both calls.
    unsafe {
        libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_CORE, &raw const limit);
    }
    // SAFETY: this process has one thread; the child only crashes.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let _ = std::env::set_current_dir(folder);
        std::process::abort();
    }
    // SAFETY: the child is ours.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    let files: Vec<_> = std::fs::read_dir(folder).map_err(|error| error.to_string())?.flatten().collect();
    let sizes = files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum::<u64>();
    if sizes > 0 { Ok(format!("{sizes} bytes")) } else { Err("no core file".to_owned()) }
}

pub fn descriptors() -> Got {
    let mut open = Vec::new();
    for count in 0..5_000 {
        match File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(error) => return Err(format!("{error} after {count}")),
        }
    }
    Ok("opened".to_owned())
}

pub fn fill_tmp() -> Got {
    let path = "/tmp/full";
    let mut file = File::create(path).map_err(|error| error.to_string())?;
    let block = vec![1; 1 << 20];
    let mut written = 0;
    let result = loop {
        if written == 100 {
            break Ok("written".to_owned());
        }
        match file.write_all(&block) {
            Ok(()) => written += 1,
            Err(error) => break Err(format!("{error} after {written} MiB")),
        }
    };
    let _ = std::fs::remove_file(path);
    result
}

/// Threads, which are counted like processes and need little memory: that has a wall of its own.
pub fn many_tasks() -> Got {
    for count in 0..700 {
        let sleeping = std::thread::Builder::new().stack_size(16 << 10).spawn(|| {
            loop {
                std::thread::park();
            }
        });
        if let Err(error) = sleeping {
            return Err(format!("{error} after {count}"));
        }
    }
    Ok("started".to_owned())
}

pub fn memory_bomb() -> Got {
    let mut blocks = Vec::new();
    for _ in 0..200 {
        // Ones, so that every page is really there.
        blocks.push(vec![1u8; 1 << 20]);
    }
    Ok(format!("has {} MiB", std::hint::black_box(&blocks).len()))
}
