//! Measures setting up an instance up to the function's first instruction, with `/bin/true` as the function:
//! `cargo run --release --example instance_setup -- --count 100`, as root.
//!
//! Cgroup, sealed namespace with its listeners and its steering, process, file system, privileges, seccomp: all as
//! the agent does it. Prints one JSON line: microseconds with and without the namespaces that are prepared ahead, and
//! of the steps.
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use dshield_agent::agent::Stock;
use dshield_agent::kernel::{Kernel, Limits, SealedNetns};
use dshield_agent::sandbox::{Child, Filter, INIT_COMMAND, Spawner, Spec, init};
use dshield_agent::walls::Walls;
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Arguments {
    /// How many instances of each kind.
    #[arg(long, default_value_t = 100)]
    count: u32,
}

fn main() -> Result<ExitCode, Error> {
    // The spawner starts this same program again, as it does with `dshield`.
    if std::env::args().nth(1).as_deref() == Some(INIT_COMMAND) {
        return Ok(init::run());
    }
    let Arguments { count } = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let name = format!("setup-{}", std::process::id());
        let (kernel, _events) = Kernel::start(&name)?;
        let kernel = Arc::new(kernel);
        let measured = measure(&kernel, count).await;
        kernel.stop()?;
        measured
    })?;
    println!("{report}");
    Ok(ExitCode::SUCCESS)
}

async fn measure(kernel: &Arc<Kernel>, count: u32) -> Result<Value, Error> {
    let mut setup = Setup::new(kernel)?;
    // The first ones find cold caches.
    for _ in 0..5 {
        setup.one().await?;
    }
    let (mut unprepared, mut prepared) = (Vec::new(), Vec::new());
    for _ in 0..count {
        unprepared.push(setup.one().await?);
    }
    setup.stock.open();
    for _ in 0..count {
        setup.stock.refill().await?;
        prepared.push(setup.one().await?);
    }
    let stock = setup.stock.clone();
    tokio::task::spawn_blocking(move || stock.close()).await?;
    let (mut netns, mut steer) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let begun = Instant::now();
        let namespace = SealedNetns::create()?;
        netns.push(begun.elapsed());
        let begun = Instant::now();
        drop(kernel.steer(&namespace)?);
        steer.push(begun.elapsed());
    }
    Ok(json!({
        "count": count,
        "unprepared": percentiles(unprepared),
        "prepared": percentiles(prepared),
        "step_ground_prepared": percentiles(setup.grounds.split_off(count as usize + 5)),
        "step_spawn": percentiles(setup.spawns),
        "step_netns": percentiles(netns),
        "step_steer": percentiles(steer),
    }))
}

struct Setup {
    kernel: Arc<Kernel>,
    stock: Arc<Stock>,
    spawner: Spawner,
    spec: Spec,
    made: u32,
    grounds: Vec<Duration>,
    spawns: Vec<Duration>,
}

impl Setup {
    fn new(kernel: &Arc<Kernel>) -> Result<Self, Error> {
        let run_dir = kernel.run_dir();
        let (root, ca_bundle, code) = (run_dir.join("root"), run_dir.join("ca-bundle.pem"), run_dir.join("code"));
        std::fs::write(&ca_bundle, "")?;
        std::fs::create_dir(&root)?;
        std::fs::create_dir(&code)?;
        let spec = Spec {
            hostname: "setup".into(),
            uid: 1_899_999_999,
            root,
            code,
            ca_bundle,
            runtime_files: BTreeMap::new(),
            tmp_bytes: 64 << 20,
            argv: vec!["/bin/true".into()],
            env: Vec::new(),
            seccomp: Filter::compile_all()?,
            walls: Walls::standing(),
        };
        let stock = Arc::new(Stock::new(kernel.clone()));
        let kernel = kernel.clone();
        Ok(Self { kernel, stock, spawner: Spawner::new()?, spec, made: 0, grounds: Vec::new(), spawns: Vec::new() })
    }

    /// From nothing, or what is prepared, to the first instruction; then takes it apart, which is not counted.
    async fn one(&mut self) -> Result<Duration, Error> {
        self.made += 1;
        let limits = Limits { memory_bytes: 128 << 20, pids: 512 };
        let begun = Instant::now();
        let ground = self.stock.ground(&format!("setup-{}", self.made), limits)?;
        self.grounds.push(begun.elapsed());
        let child = self.spawner.spawn(&self.spec, &ground.leaf.open()?, &ground.netns.fd)?;
        let took = begun.elapsed();
        self.spawns.push(took.saturating_sub(self.grounds.last().copied().unwrap_or_default()));
        let (pidfd, _stdout, _stderr) = child.into_parts();
        Child::wait(pidfd).await?;
        ground.remove(&self.kernel)?;
        Ok(took)
    }
}

fn percentiles(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0, Duration::as_micros) as u64;
    json!({"p50_us": at(50), "p99_us": at(99)})
}
