//! DNS for functions: what stands for a name, in which forms it is asked for, and what that costs the agent.
use dshield_tests::agent::{Agent, Egress, Log, Project, resident_kib};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run, run_with};
use dshield_tests::standin::{NAME, Standin};
use serde_json::json;

/// An agent with one function, `f`, that has this rule; `None` where the machine lacks something.
fn agent(rule: &Egress) -> Option<(Project, Agent)> {
    if !require_root() || !requires("python3") {
        return None;
    }
    let project = Project::new().with(&script::function("f").timeout("120s").egress(rule));
    let agent = Agent::start(&project);
    Some((project, agent))
}

#[test]
fn an_ipv6_socket_reaches_the_name_that_its_address_stands_for() {
    let standin = Standin::start();
    let Some((_project, agent)) = agent(&Egress::to_standin(&standin)) else { return };
    let code = format!(
        "
answer = {{'dns': dns('{NAME}', 'AAAA')}}
if answer['dns']['addresses']:
    to = answer['dns']['addresses'][0]
    context = ssl.create_default_context()
    stream = context.wrap_socket(socket.create_connection((to, 443), timeout=20), server_hostname='{NAME}')
    answer.update(to=to, family=stream.family.name, asked=ask(stream, 'GET', '/bytes/5', '{NAME}'))
"
    );
    let answer = run(&agent, "f", &code);
    if !std::path::Path::new("/proc/net/if_inet6").exists() {
        println!("skipped: this machine has no IPv6; the name has {}", answer["dns"]);
        return assert_eq!(answer["dns"]["answers"], 0);
    }
    assert!(answer["to"].as_str().is_some_and(|to| to.starts_with("fd64:7368:6965:6c64::")), "{answer}");
    assert_eq!((&answer["family"], &answer["asked"]["status"]), (&json!("AF_INET6"), &json!(200)), "{answer}");
    let log = agent.log_with("the connection", |log| !log.connects("f").is_empty());
    let connect = log.connects("f")[0];
    assert_eq!(connect.host, NAME);
    assert!(connect.process.is_some(), "who asked is known over IPv6 too: {log}");
    assert_eq!(standin.seen().len(), 1);
}

/// The bytes after the question are the answer's; a type of its own in the helper would hide what is sent.
#[test]
fn edns_is_answered_with_edns_and_another_version_with_badvers() {
    let Some((_project, agent)) = agent(&Egress::to(NAME)) else { return };
    let code = format!(
        "
def asked(version):
    question = b''.join(bytes([len(l)]) + l.encode() for l in '{NAME}'.split('.')) + b'\\0\\0\\1\\0\\1'
    option = b'\\xfd\\xe9\\0\\4data'
    opt = struct.pack('>BHHBBHH', 0, 41, 65000, 0, version, 0, len(option)) + option
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(10)
        asker.sendto(struct.pack('>HHHHHH', 7, 0x0100, 1, 0, 0, 1) + question + opt, ('198.18.0.1', 53))
        reply = asker.recv(4096)
    _, flags, _, answers, _, additional = struct.unpack('>HHHHHH', reply[:12])
    name, kind, payload, high, own, _, length = struct.unpack('>BHHBBHH', reply[-11:])
    return [flags & 15 | high << 4, answers, additional, name, kind, payload, own, length]
answer = [asked(0), asked(1)]
"
    );
    assert_eq!(run(&agent, "f", &code), json!([[0, 1, 1, 0, 41, 1232, 0, 0], [16, 0, 1, 0, 41, 1232, 0, 0]]));
    let has = |log: &Log| log.refused("f").iter().any(|r| (&*r.layer, &*r.reason) == ("dns", "dns_unsupported"));
    assert_eq!(agent.log_with("the refusal", has).verify(), Ok(()));
}

/// A wildcard rule lets a function make names up: what the agent keeps of them has an end.
#[test]
fn a_hundred_thousand_of_the_longest_names_have_their_addresses_in_bounded_memory() {
    const NAMES: u32 = 100_000;
    /// A name of 253 bytes, once, and what finds it again.
    const MOST_KIB: u64 = 48 << 10;
    let Some((_project, agent)) = agent(&Egress::to("*.made-up.example")) else { return };
    let code = "
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.settimeout(30)
asker.connect(('198.18.0.1', 53))
filler = b''.join(bytes([63]) + b'a' * 63 for _ in range(3)) + bytes([37]) + b'a' * 37
def ask(number):
    label = b'%07d' % number
    question = bytes([len(label)]) + label + filler + b'\\7made-up\\7example\\0\\0\\1\\0\\1'
    asker.send(struct.pack('>HHHHHH', 7, 0x0100, 1, 0, 0, 0) + question)
    return asker.recv(4096)[-4:]
answer = len({ask(number) for number in range(event['from'], event['to'])})
";
    let ask = |from: u32, to: u32| run_with(&agent, "f", code, json!({"from": from, "to": to}));
    assert_eq!(ask(0, 1000), 1000);
    let before = resident_kib(agent.pid());
    for start in (1000..NAMES).step_by(9000) {
        assert_eq!(ask(start, NAMES.min(start + 9000)), 9000, "each has an address of its own");
    }
    let grown = resident_kib(agent.pid()).saturating_sub(before);
    assert!(grown < MOST_KIB, "{grown} KiB for {NAMES} names");
    println!("{grown} KiB for {NAMES} names of 253 bytes");
    let again = json!({"from": NAMES - 1, "to": NAMES});
    assert_eq!(run_with(&agent, "f", code, again), 1, "the last one is still known");
}
