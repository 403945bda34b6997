//! What processes have used, by /proc.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What some processes have used up to now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// On processors, for themselves and in the kernel. Exact to about 10 ms.
    pub cpu: Duration,
    /// Resident memory, pages that are shared counted in each process; KiB.
    pub rss_kib: u64,
    /// The same with each shared page counted once over all who share it; KiB.
    pub pss_kib: u64,
}

impl Usage {
    /// Of one process.
    pub fn of(process: u32) -> Self {
        let folder = Path::new("/proc").join(process.to_string());
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        let kib = |text: &str, field: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
            line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
        };
        let memory = read("smaps_rollup");
        Self { cpu: cpu(&read("stat")), rss_kib: kib(&memory, "Rss:"), pss_kib: kib(&memory, "Pss:") }
    }

    /// Of a process and all that descend from it.
    pub fn of_family(ancestor: u32) -> Self {
        family(ancestor).into_iter().map(Self::of).fold(Self::default(), |sum, one| Self {
            cpu: sum.cpu + one.cpu,
            rss_kib: sum.rss_kib + one.rss_kib,
            pss_kib: sum.pss_kib + one.pss_kib,
        })
    }
}

/// The process and all that descend from it.
pub fn family(ancestor: u32) -> BTreeSet<u32> {
    let mut family = BTreeSet::from([ancestor]);
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = fields(&stat).nth(1).and_then(|field| field.parse().ok()) {
            parents.push((process, parent));
        }
    }
    loop {
        let before = family.len();
        family.extend(
            parents
                .iter()
                .filter(|(_, parent)| family.contains(parent))
                .map(|(process, _)| *process)
                .collect::<Vec<_>>(),
        );
        if family.len() == before {
            return family;
        }
    }
}

/// proc_pid_stat(5) from `state` on: what stands before it, in parentheses, may hold anything.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ')
}

fn cpu(stat: &str) -> Duration {
    // Of the process's threads, also those that have ended.
    let ticks: u64 = fields(stat).skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // USER_HZ, which is 100 on every architecture that we build for.
    Duration::from_millis(10 * ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu(stat), Duration::from_secs(3));
        assert_eq!(fields(stat).nth(1), Some("1"));
    }

    #[test]
    fn this_process_has_memory_and_is_in_its_own_family() {
        let own = std::process::id();
        assert!(family(own).contains(&own));
        let usage = Usage::of_family(own);
        assert!(usage.rss_kib >= usage.pss_kib && usage.pss_kib > 0, "{usage:?}");
    }
}
