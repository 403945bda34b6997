//! Medians side by side, as Markdown that reads well in a terminal too.
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use super::Samples;
use super::lineup::Lineup;
use super::options::Options;
use super::subject::{Kind, Proxy};
use super::target::TARGETS;
use super::task::{Figure, Task};

/// A table for each mode and each of D-Shield's settings, and the targets.
pub fn tables(lineup: &Lineup, samples: &Samples) -> String {
    let mut text = String::new();
    for kind in Kind::ALL {
        for ours in lineup.places(kind, true) {
            let _ = write!(text, "\n## {}: {}\n\n", kind.word(), lineup.subjects[ours].name);
            text += &grid(&compared(lineup, samples, kind, ours));
        }
    }
    let _ = write!(text, "\n## Targets\n\n{}\n", grid(&targets(lineup, samples)));
    let _ = writeln!(text, "The disk of the logs: {}.", disk(samples));
    text
}

/// Every figure of one of ours beside every peer's.
fn compared(lineup: &Lineup, samples: &Samples, kind: Kind, ours: usize) -> Vec<Vec<String>> {
    let mut head = vec!["what".to_owned(), "unit".to_owned(), "D-Shield".to_owned()];
    for peer in lineup.places(kind, false) {
        head.extend([lineup.subjects[peer].name.to_owned(), "ratio".to_owned()]);
    }
    let mut rows = vec![head];
    for (place, task) in Task::ALL.iter().enumerate() {
        let own = samples.of(ours, place);
        if own.is_empty() {
            continue;
        }
        for (index, figure) in task.figures().iter().enumerate() {
            let what = format!("{}: {}", task.title(), figure.name);
            let mut row = vec![what, figure.unit.to_owned(), shown(median(&column(own, index)))];
            for peer in lineup.places(kind, false) {
                let theirs = samples.of(peer, place);
                row.push(shown(median(&column(theirs, index))));
                row.push(
                    ratio(own, theirs, index, *figure).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
                );
            }
            rows.push(row);
        }
    }
    rows
}

fn targets(lineup: &Lineup, samples: &Samples) -> Vec<Vec<String>> {
    let mut rows = vec![["what", "setting", "peer", "at least", "ratio", "met"].map(str::to_owned).to_vec()];
    for target in TARGETS {
        let place = Task::ALL.iter().position(|task| *task == target.task).unwrap_or_default();
        let figure = target.task.figures()[target.figure];
        let peer = lineup.places(target.kind, false).find(|peer| lineup.subjects[*peer].name == target.peer);
        for ours in lineup.places(target.kind, true) {
            let own = samples.of(ours, place);
            if own.is_empty() {
                continue;
            }
            let measured = peer.and_then(|peer| ratio(own, samples.of(peer, place), target.figure, figure));
            let (ratio, met) = match measured {
                Some(ratio) => (format!("{ratio:.2}"), if ratio >= target.factor { "yes" } else { "no" }),
                None => ("-".to_owned(), "not measured"),
            };
            rows.push(vec![
                format!("{}, {}: {}", target.kind.word(), target.task.title(), figure.name),
                lineup.subjects[ours].name.to_owned(),
                target.peer.to_owned(),
                format!("{:.2}", target.factor),
                ratio,
                met.to_owned(),
            ]);
        }
    }
    rows
}

/// The whole page.
pub fn page(lineup: &Lineup, samples: &Samples, options: &Options) -> String {
    let effort = options.effort;
    let mut text = String::from(
        "# Benchmarks of the proxy\n\nWritten by `cargo xtask bench proxy --write`; not to be edited by hand.\n\n",
    );
    let line = |text: &mut String, what: &str, value: &str| {
        let _ = writeln!(text, "- {what}: {value}");
    };
    line(&mut text, "command", &format!("`cargo xtask bench proxy {}`", options.line));
    line(&mut text, "date", &said("date", &["-u", "+%Y-%m-%d"]));
    line(&mut text, "kernel", &said("uname", &["-sr"]));
    line(&mut text, "processors", &processors());
    for subject in &lineup.subjects {
        if let Proxy::Peer(peer) = &subject.proxy {
            line(
                &mut text,
                &format!("{}, {}", subject.name, subject.kind.word()),
                &format!("{}; {}", peer.version, peer.way),
            );
        }
    }
    for (kind, name, why) in &lineup.skipped {
        line(&mut text, &format!("{name}, {}", kind.word()), &format!("skipped: {why}"));
    }
    for failure in &samples.failures {
        line(&mut text, "failed in one round", failure);
    }
    let _ = write!(
        text,
        "\nEach figure is the median of {} rounds ({} s of load, bodies of {} MiB, {} idle connections, those once); in each round\n\
         all take turns. A ratio is the median of the rounds' ratios, and says how many times as good D-Shield is: above 1\n\
         better, below 1 worse, for rates and times alike.\n{}",
        effort.rounds,
        effort.load.as_secs_f64(),
        effort.bytes >> 20,
        effort.idle,
        tables(lineup, samples)
    );
    text + include_str!("method.md")
}

/// What a durable entry has to wait for at least.
fn disk(samples: &Samples) -> String {
    let worst = samples.syncs.iter().copied().fold(0.0, f64::max);
    format!(
        "4 KiB and fdatasync took {} ms in the median and {} ms at the worst of the times it was tried, after each round",
        shown(median(&samples.syncs)),
        shown(Some(worst))
    )
}

/// The figure in each round.
fn column(rounds: &[Vec<f64>], index: usize) -> Vec<f64> {
    rounds.iter().filter_map(|round| round.get(index).copied()).collect()
}

/// How many times as good `ours` is.
fn ratio(ours: &[Vec<f64>], theirs: &[Vec<f64>], index: usize, figure: Figure) -> Option<f64> {
    // Round by round; one that failed for either is no pair.
    let pairs = ours.iter().zip(theirs).filter_map(|(ours, theirs)| Some((ours.get(index)?, theirs.get(index)?)));
    let ratios: Vec<_> = pairs.map(|(ours, theirs)| if figure.more { ours / theirs } else { theirs / ours }).collect();
    median(&ratios).filter(|ratio| ratio.is_finite())
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}

/// Three digits, or all that stand before the point.
fn shown(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// A Markdown table whose columns are aligned; the first row is the head.
fn grid(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let rules: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
            let _ = writeln!(text, "| {} |", rules.join(" | "));
        }
    }
    text
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn processors() -> String {
    let all = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<_> =
        all.lines().filter_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1)).collect();
    format!(
        "{} × {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        models.first().unwrap_or(&"unknown")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_is_better_whether_more_or_less_is() {
        let rounds = |values: &[f64]| values.iter().map(|value| vec![*value]).collect::<Vec<_>>();
        let figure = |more| Figure { name: "", unit: "", more };
        // Round by round: the machine was twice as slow in the second.
        let (ours, theirs) = (rounds(&[20.0, 10.0, 20.0]), rounds(&[10.0, 5.0, 10.0]));
        assert_eq!(ratio(&ours, &theirs, 0, figure(true)), Some(2.0));
        assert_eq!(ratio(&ours, &theirs, 0, figure(false)), Some(0.5));
        assert_eq!(ratio(&ours, &rounds(&[0.0]), 0, figure(true)), None);
        assert_eq!(ratio(&ours, &[], 0, figure(true)), None);
        assert_eq!(ratio(&ours, &[vec![10.0], vec![], vec![5.0]], 0, figure(true)), Some(3.0));
    }

    #[test]
    fn a_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_columns_of_a_table_are_aligned() {
        let rows = [vec!["a".to_owned(), "µs each".to_owned()], vec!["long".to_owned(), "1".to_owned()]];
        assert_eq!(grid(&rows), "| a    | µs each |\n| ---- | ------- |\n| long | 1       |\n");
    }
}
