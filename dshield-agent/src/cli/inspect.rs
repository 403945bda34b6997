//! `dshield inspect`: an agent's kernel side for people, or as one JSON object.
use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;

use super::table::table;
use crate::inspect::{self, Agent, Instance, Link, Map, Process, Program};

/// What `dshield inspect` takes.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// Show the instances of this function only.
    function: Option<String>,
    /// The agent's name, as `dshield run --name` was given it.
    #[arg(long, value_name = "NAME", default_value = "dshield")]
    name: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Shows what there is. Exit code 1 when there is no such agent or instance.
pub(super) fn run(args: &InspectArgs) -> ExitCode {
    let agent = match inspect::inspect(&args.name, args.function.as_deref()) {
        Ok(agent) => agent,
        Err(error) => {
            eprintln!("dshield: {error}");
            return ExitCode::FAILURE;
        }
    };
    let text = if args.json { format!("{:#}\n", json!(agent)) } else { explain(&agent) };
    // A reader that went away is no reason for another exit code.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn explain(agent: &Agent) -> String {
    let Agent { name, pid, pins, cgroup, programs, links, maps, instances } = agent;
    let mut out = facts(
        0,
        &[
            ("agent", name.clone()),
            ("process", if *pid == 0 { "in another pid namespace".to_owned() } else { pid.to_string() }),
            ("cgroup", show(cgroup)),
            ("pins", pins.display().to_string()),
        ],
    );
    out.push_str(&section("PROGRAMS, for every instance", &programs.commands));
    out.push_str(&table(2, ["NAME", "ID", "TYPE", "TAG"], &rows(&programs.list, program)));
    out.push_str(&section("LINKS, which attach them to the cgroup", &links.commands));
    out.push_str(&table(2, ["NAME", "ID", "PROGRAM", "HOOK", "CGROUP"], &rows(&links.list, link)));
    out.push_str(&section("MAPS", &maps.commands));
    out.push_str(&table(2, ["NAME", "ID", "TYPE", "ENTRIES"], &rows(&maps.list, map)));
    for one in instances {
        out.push_str(&instance(one));
    }
    if instances.is_empty() {
        out.push_str("\nNo instance runs now: a function's first invocation makes one.\n");
    }
    out
}

fn instance(instance: &Instance) -> String {
    let Instance { id, function, cgroup, processes, netns, steering } = instance;
    let mut out = format!("\nINSTANCE {id}, of function {function}\n");
    out.push_str(&facts(2, &[("cgroup", show(cgroup))]));
    out.push_str(&section("  processes", &processes.commands));
    let head = ["PID", "COMMAND", "THREADS", "UID", "SECCOMP"];
    out.push_str(&table(4, head, &rows(&processes.list, process)));
    let inode = netns.inode.map_or_else(|| "unknown".to_owned(), |inode| inode.to_string());
    out.push_str(&section(&format!("  network namespace {inode}"), &netns.commands));
    let listens = |uid| netns.listening.iter().filter(move |socket| (socket.uid == 0) == uid);
    let sockets = |agents: bool| {
        let all: Vec<_> = listens(agents).map(|socket| format!("{} {}", socket.protocol, socket.address)).collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join("\n") }
    };
    let mut known = vec![
        ("interfaces", netns.interfaces.join(", ")),
        ("agent listens", sockets(true)),
        ("function listens", sockets(false)),
    ];
    if !netns.holds_all {
        known.push(("WRONG", "not every process of the instance is in this namespace".to_owned()));
    }
    out.push_str(&facts(4, &known));
    out.push_str(&section("  steering", &steering.commands));
    let absent = || "not there".to_owned();
    out.push_str(&facts(
        4,
        &[
            ("program", steering.program.as_ref().map_or_else(absent, |one| program(one).join("  "))),
            ("link", steering.link.as_ref().map_or_else(absent, |one| format!("{}  {}", one.id, one.attach_type))),
            ("map", steering.map.as_ref().map_or_else(absent, |one| map(one).join("  "))),
        ],
    ));
    out
}

fn section(title: &str, commands: &[String]) -> String {
    let indent = " ".repeat(title.len() - title.trim_start().len() + 2);
    let commands: String = commands.iter().map(|command| format!("{indent}$ {command}\n")).collect();
    format!("\n{title}\n{commands}")
}

/// Names with their values.
fn facts(indent: usize, facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        let next = format!("\n{}", " ".repeat(indent + width + 2));
        format!("{}{name:width$}  {}\n", " ".repeat(indent), value.replace('\n', &next))
    };
    facts.iter().map(line).collect()
}

fn rows<T, const N: usize>(list: &[T], row: impl Fn(&T) -> [String; N]) -> Vec<[String; N]> {
    list.iter().map(row).collect()
}

fn show(cgroup: &inspect::Cgroup) -> String {
    let id = cgroup.id.map_or_else(|| "gone".to_owned(), |id| format!("id {id}"));
    format!("{} ({id})", cgroup.path.display())
}

fn program(program: &Program) -> [String; 4] {
    [program.name.clone(), program.id.to_string(), program.r#type.clone(), program.tag.clone()]
}

fn link(link: &Link) -> [String; 5] {
    let cgroup = match link.cgroup_id {
        Some(0) | None => "DETACHED".to_owned(),
        Some(id) => id.to_string(),
    };
    [link.name.clone(), link.id.to_string(), link.program_id.to_string(), link.attach_type.clone(), cgroup]
}

fn map(map: &Map) -> [String; 4] {
    let most =
        if map.r#type == "ringbuf" { format!("{} KiB", map.max_entries >> 10) } else { map.max_entries.to_string() };
    let entries = map.entries.map_or_else(|| most.clone(), |entries| format!("{entries} of {most}"));
    [map.name.clone(), map.id.to_string(), map.r#type.clone(), entries]
}

fn process(process: &Process) -> [String; 5] {
    let seccomp = match process.seccomp {
        "filter" => format!("{} filters", process.seccomp_filters),
        other => other.to_owned(),
    };
    [process.pid.to_string(), process.comm.clone(), process.threads.to_string(), process.uid.to_string(), seccomp]
}
