//! Against the real kernel, without an agent around it.
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;

use super::super::{Kernel, KernelError, Limits, SealedNetns, Steering};
use super::*;

/// The kernel side under a name of its own; taken down when dropped.
struct Own {
    kernel: Kernel,
    lock: std::path::PathBuf,
}

impl Own {
    /// `None` where the machine does not let us.
    fn start(name: &str) -> Option<Self> {
        let name = format!("dsk-{}-{name}", std::process::id());
        match Kernel::start(&name) {
            Ok((kernel, _events)) => Some(Self { lock: kernel.run_dir().with_extension("lock"), kernel }),
            Err(error @ (KernelError::NotRoot | KernelError::NoCgroup2)) => {
                println!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn instance(&self, name: &str) -> (Leaf, SealedNetns, Steering) {
        let leaf = self.kernel.cgroup().leaf(name, Limits { memory_bytes: 64 << 20, pids: 16 }).unwrap();
        let netns = SealedNetns::create().unwrap();
        let mut steering = self.kernel.seal(&netns, &leaf, name).unwrap();
        steering.watch();
        (leaf, netns, steering)
    }

    fn end(&self, (leaf, netns, steering): (Leaf, SealedNetns, Steering)) {
        self.kernel.take_apart(&leaf, steering).unwrap();
        drop(netns);
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.kernel.stop();
        let _ = std::fs::remove_file(&self.lock);
    }
}

#[tokio::test]
async fn instances_that_are_made_and_taken_apart_while_somebody_looks_are_no_difference() {
    let Some(own) = Own::start("hectic") else { return };
    let over = AtomicBool::new(false);
    let looks = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                own.kernel.look().unwrap();
                looks += 1;
            }
            looks
        });
        let makers: Vec<_> = (0..4)
            .map(|maker| {
                let own = &own;
                scope.spawn(move || {
                    let mut living = VecDeque::new();
                    for number in 0..20 {
                        living.push_back(own.instance(&format!("f-{maker}-{number}")));
                        // Some live on meanwhile, so that a look takes long enough to meet one that ends.
                        if living.len() > 4 {
                            own.end(living.pop_front().unwrap());
                        }
                    }
                    living.into_iter().for_each(|instance| own.end(instance));
                })
            })
            .collect();
        let made: Vec<_> = makers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        assert!(made.iter().all(Result::is_ok));
        looking.join().unwrap()
    });
    assert!(looks > 10, "somebody did look: {looks}");
    assert!(own.kernel.watch.instances().is_empty());
}

#[tokio::test]
async fn a_second_program_that_steers_a_namespaces_connections_is_named() {
    let Some(own) = Own::start("second") else { return };
    let (_leaf, netns, _steering) = own.instance("f-0");
    own.kernel.look().unwrap();
    let pins = own.kernel.pins.prepared(0).unwrap();
    let mut loader = own.kernel.loader.lock().unwrap();
    let _second = Steering::attach(&mut loader, &netns, pins, own.kernel.watch.clone()).unwrap();
    let what = own.kernel.look().unwrap_err();
    assert!(what.what().starts_with("instance f-0: its namespace: sk_lookup: program ds_sklookup (id "), "{what}");
    assert!(what.what().ends_with("runs too"), "{what}");
}

#[test]
fn a_machine_that_is_short_of_something_was_not_tampered_with() {
    let error = |errno: Errno| Broken::io("x", &errno.into());
    assert!(matches!(error(Errno::EMFILE), Broken::Unseen(_)));
    assert!(matches!(Broken::io("x", &io::ErrorKind::Interrupted.into()), Broken::Unseen(_)));
    assert!(matches!(error(Errno::ENOENT), Broken::Changed(_)));
    assert_eq!(error(Errno::ENOENT).at("f-0").what(), "f-0: x: No such file or directory (os error 2)");
}
