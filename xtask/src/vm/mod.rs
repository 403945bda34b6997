//! `cargo xtask vm`: the compiled tests flow in and run on other kernels, each in an emulated machine that is made for
//! it; each kernel's verdict, and what its tests skipped, flow out. What is needed for it lies in `vm-images/`.
mod boot;
mod cpio;
mod image;
mod kernel;
mod suite;

use self::kernel::{Kernel, LINES, Line};
use crate::{cargo, setup, shell::Error};
use std::{fs, io::Write, path::Path, thread};

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Task<'a> {
    lines: Vec<Line>,
    filters: Vec<&'a str>,
}

/// Runs the task. Here a missing kernel is a failure: it was asked for.
pub fn run(arguments: &[&str]) -> Result<u8, Error> {
    let Some(task) = parse(arguments) else {
        eprintln!("usage: cargo xtask vm [--kernel 6.1|6.12] [test file or part of a test's name]...");
        return Ok(2);
    };
    if let Some(missing) = missing() {
        return Err(Error::Unfit(missing));
    }
    let tests = suite::build(&task.filters)?;
    let kernels = task.lines.into_iter().map(|line| Ok((line, Kernel::get(line)?))).collect::<Result<_, Error>>()?;
    together(kernels, &tests)?.iter().flatten().for_each(|skip| eprintln!("skipped: {skip}"));
    Ok(0)
}

/// The step of `cargo xtask test`: what this machine cannot run is a line in the file `skips`.
pub fn step(skips: &Path) -> Result<(), Error> {
    let skip = |lines: &[String]| {
        let mut file = fs::OpenOptions::new().append(true).open(skips).map_err(Error::file(skips))?;
        lines.iter().try_for_each(|line| writeln!(file, "{line}")).map_err(Error::file(skips))
    };
    if let Some(missing) = missing() {
        eprintln!("skipped: {missing}");
        return skip(&[format!("virtual machines: {missing}")]);
    }
    let tests = suite::build(&[])?;
    let mut kernels = Vec::new();
    for line in LINES {
        match Kernel::get(line) {
            Ok(kernel) => kernels.push((line, kernel)),
            Err(error) => skip(&[format!("vm {}: {error}", line.name)])?,
        }
    }
    together(kernels, &tests)?.iter().try_for_each(|skipped| skip(skipped))
}

/// Each guest keeps one processor busy, so they run side by side. All of them end, also when one fails.
fn together(kernels: Vec<(Line, Kernel)>, tests: &[suite::Test]) -> Result<Vec<Vec<String>>, Error> {
    let run = |(line, kernel): (Line, Kernel)| on(line, kernel, tests);
    thread::scope(|scope| {
        let guests: Vec<_> = kernels.into_iter().map(|each| scope.spawn(move || run(each))).collect();
        let ended: Vec<_> = guests.into_iter().map(|guest| guest.join()).collect();
        ended.into_iter().map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// Attacks an instance with each wall alone on the newest kernel, which has every wall, and writes what each held.
pub fn walls() -> Result<u8, Error> {
    if let Some(missing) = missing() {
        return Err(Error::Unfit(missing));
    }
    let tests = suite::build(&["security", "each_wall_holds_alone"])?;
    let line = LINES[LINES.len() - 1];
    let report = boot_with(line, &Kernel::get(line)?, &tests)?;
    let page = cargo::workspace().join("docs/explanation/walls.md");
    fs::write(&page, report.page.join("\n") + "\n").map_err(Error::file(&page))?;
    eprintln!("wrote {}", page.display());
    Ok(0)
}

fn parse<'a>(arguments: &[&'a str]) -> Option<Task<'a>> {
    let mut task = Task { lines: Vec::new(), filters: Vec::new() };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if *word == "--kernel" {
            let name = words.next()?;
            task.lines.push(*LINES.iter().find(|line| line.name == *name)?);
        } else if word.starts_with('-') {
            return None;
        } else {
            task.filters.push(word);
        }
    }
    if task.lines.is_empty() {
        task.lines = LINES.to_vec();
    }
    Some(task)
}

/// What this machine lacks for running the guests.
fn missing() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the guests are x86_64 machines and run the tests that are compiled here".into());
    }
    setup::missing_for_vm().map(|(program, package)| {
        format!("{program} is not installed (`cargo xtask setup --vm`, or apt-get install {package})")
    })
}

/// Runs the tests on one kernel; returns what they skipped, or fails with what failed.
fn on(line: Line, kernel: Kernel, tests: &[suite::Test]) -> Result<Vec<String>, Error> {
    let report = boot_with(line, &kernel, tests)?;
    Ok(report.skipped.iter().map(|skip| format!("vm {}: {skip}", line.name)).collect())
}

fn boot_with(line: Line, kernel: &Kernel, tests: &[suite::Test]) -> Result<boot::Report, Error> {
    let name = line.name;
    let folder = cargo::target()?.join("vm");
    let (initramfs, log) = (folder.join(format!("{name}.cpio")), folder.join(format!("{name}.log")));
    image::write(kernel, tests, &folder.join(format!("{name}.stripped")), &initramfs)?;
    let report = boot::boot(name, &kernel.image, &initramfs, &log)?;
    if report.failures.is_empty() {
        Ok(report)
    } else {
        Err(Error::Unfit(format!("Linux {name}: {} (see {})", report.failures.join(", "), log.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_kernel_all_of_them_are_meant() {
        assert_eq!(parse(&[]), Some(Task { lines: LINES.to_vec(), filters: vec![] }));
        assert_eq!(parse(&["--kernel", "6.12", "flood"]), Some(Task { lines: vec![LINES[1]], filters: vec!["flood"] }));
        assert_eq!(parse(&["--kernel", "2.6"]), None);
        assert_eq!(parse(&["--fast"]), None);
    }
}
