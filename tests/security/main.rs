//! The escape suite: hostile code in a real instance tries every technique of the catalogue
//! (`dshield_tests::catalogue`), and a world outside says what arrived.
//!
//! First with every wall of the real program; then, with `dshield-unwalled`, without any, which shows that the
//! techniques work, and with each wall alone, which shows what it holds by itself.
mod attack;
mod crash;
mod lingering;
mod matrix;

use dshield_tests::catalogue::{TECHNIQUES, Technique};
use dshield_tests::requires::{
    require_root, requires, requires_built, requires_controllers, requires_landlock, requires_that, requires_veth,
};
use serde_json::json;

use attack::{Attack, Program};
use matrix::{Matrix, WALLS};

/// What Landlock holds from ABI 6 on.
const SCOPED: [&str; 3] = ["unix_abstract", "agent_signal", "other_signal"];

fn landlock_abi() -> u32 {
    // SAFETY: asked for its version (flag 1), the kernel reads no attributes.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, 1_u32) };
    u32::try_from(version).unwrap_or(0)
}

#[test]
fn with_every_wall_nothing_gets_out_and_the_agent_goes_on() {
    if !require_root() || !requires("ip") || !requires("nsenter") || !requires_veth() {
        return;
    }
    let attack = Attack::run(&Program::Real);
    let mut escaped = attack.escaped();
    if !requires_controllers(&["memory"]) {
        escaped.retain(|(name, _)| *name != "memory_bomb");
    }
    assert!(escaped.is_empty(), "{escaped:?}\n{}", attack.agent.stderr());
    let answer = attack.world.on(|| attack.agent.call("bystander", &json!({"do": "echo"})));
    assert_eq!(answer["do"], "echo", "other functions go on");
    let log = attack.world.on(|| attack.agent.log());
    assert_eq!(log.verify(), Ok(()));
    // The kernel's refusals are in the log, each with its program. No socket gets as far as `ds_sock_create`: the
    // system call filter refuses it before.
    for rule in ["ds_sendmsg4", "ds_sendmsg6", "ds_connect4"] {
        let refused = |log: &dshield_tests::agent::Log| log.refused("attacker").iter().any(|r| r.rule == rule);
        assert!(refused(&log), "nothing was refused by {rule}:\n{log}");
    }
}

#[test]
fn each_wall_holds_alone_what_the_catalogue_says() {
    if !require_root()
        || !requires("ip")
        || !requires("nsenter")
        || !requires_veth()
        || !requires_built("dshield-unwalled")
    {
        return;
    }
    let matrix = Matrix::measure();
    println!("{}", matrix.markdown());
    let bounded = requires_controllers(&["memory", "pids"]);
    let files = requires_landlock(landlock_abi(), 1);
    let scopes = requires_landlock(landlock_abi(), 6);
    let hooks =
        requires_that(std::env::var_os("DSHIELD_EXPECT_LSM").is_some(), "no BPF LSM is expected of this kernel");
    let has = |technique: &Technique, wall: &str| match wall {
        "controllers" => bounded,
        "lsm" => hooks,
        "landlock" if SCOPED.contains(&technique.name) => scopes,
        "landlock" => files,
        _ => true,
    };
    let mut wrong = Vec::new();
    for technique in TECHNIQUES {
        if !matrix.possible(technique) {
            if !technique.optional {
                wrong.push(format!(
                    "{} gets nowhere even without walls ({}): it shows nothing",
                    technique.name,
                    matrix.without_walls(technique)
                ));
            }
            continue;
        }
        for wall in technique.alone.iter().filter(|wall| has(technique, wall)) {
            if !matrix.holds(technique, wall) {
                wrong.push(format!("{} got out with `{wall}` as the only wall", technique.name));
            }
        }
    }
    if let Some(path) = std::env::var_os("DSHIELD_WALLS_PAGE") {
        std::fs::write(&path, matrix.markdown()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_catalogue_names_only_walls_that_exist() {
    for technique in TECHNIQUES {
        for wall in technique.alone {
            assert!(WALLS.iter().any(|(name, _)| name == wall), "{}: {wall}", technique.name);
        }
    }
}
