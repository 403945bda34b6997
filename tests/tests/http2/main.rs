//! HTTP/2 as a function would break it: frames by hand, what comes of them, and that nothing malformed goes upstream.
//!
//! `frames.py` makes the frames inside the function; the upstream speaks HTTP/1.1 and takes nothing but its plain form.
mod floods;
mod memory;
mod rows;

use dshield_tests::agent::{Agent, Egress, Function, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run_with};
use dshield_tests::standin::origin::{Arrival, Origin};
use dshield_tests::standin::tls::Issued;
use serde_json::{Value, json};

use rows::{Row, Wanted};

const HOST: &str = "upstream.example";
const FRAMES: &str = include_str!("frames.py");

/// What a test needs; the function is `f`, and `native` is a bystander with the same rule.
struct Scene {
    origin: Origin,
    agent: Agent,
    _project: Project,
}

impl Scene {
    fn start() -> Option<Self> {
        if !require_root() || !requires("python3") {
            return None;
        }
        let authority = Issued::authority(|_| ());
        let origin = Origin::start(Some(authority.leaf(&[HOST], |_| ()).server(&[])));
        let project = Project::new();
        let ca = project.folder().join("upstream-ca.pem");
        std::fs::write(&ca, authority.certificate.pem()).expect("the folder is ours");
        let rule = Egress::to(HOST)
            .set("resolve", &json!([origin.addr().to_string()]).to_string())
            .set("ca", &json!(ca).to_string())
            .methods(&["GET", "POST"])
            .paths(&["/row/*", "/slow/*"]);
        let function = script::function("f").timeout("120s").egress(&rule);
        let project = project.with(&function).with(&Function::probe("native").egress(&rule));
        let agent = Agent::start(&project);
        Some(Self { origin, agent, _project: project })
    }

    /// Runs Python that knows `frames.py`; `path` is the path of its requests.
    fn run(&self, code: &str, path: &str) -> Value {
        run_with(&self.agent, "f", &format!("{FRAMES}\n{code}"), json!({"host": HOST, "path": path}))
    }
}

#[test]
fn what_is_in_order_works() {
    check(rows::GOOD);
}

#[test]
fn frames_out_of_order_end_the_connection() {
    check(rows::FRAMES);
}

#[test]
fn header_blocks_that_lie_end_the_connection() {
    check(rows::BLOCKS);
}

#[test]
fn malformed_requests_do_not_go_upstream() {
    check(rows::FIELDS);
}

#[test]
fn a_preface_that_is_none_ends_the_connection() {
    let Some(scene) = Scene::start() else { return };
    for preface in
        ["b'PRI * HTTP/2.0\\r\\n\\r\\nXX\\r\\n\\r\\n'", "b'GET / HTTP/1.1\\r\\nHost: upstream.example\\r\\n\\r\\n'"]
    {
        let answer = scene.run(&format!("answer = attempt({preface} + settings() + request(1))"), "/row/preface/");
        assert!(answer["goaway"].as_u64().is_some_and(|code| code > 0) || answer["closed"] == true, "{answer}");
        assert_eq!(answer["pong"], false, "{answer}");
    }
    assert_eq!(scene.origin.arrived(), []);
}

fn check(rows: &[Row]) {
    let Some(scene) = Scene::start() else { return };
    let path = |number: usize| format!("/row/{number}/");
    let run = |(number, row): (usize, &Row)| {
        let code = format!("answer = attempt(PREFACE + settings() + {})", row.1);
        scene.run(&code, &path(number))
    };
    let answers: Vec<Value> = rows.iter().enumerate().map(run).collect();
    let arrived = scene.origin.arrived();
    let mut wrong = Vec::new();
    for (number, (row, answer)) in rows.iter().zip(&answers).enumerate() {
        let mine: Vec<&Arrival> = arrived.iter().filter(|arrival| arrival.mentions(&path(number))).collect();
        if let Some(problem) = problem(row.2, answer, &mine) {
            wrong.push(format!("{}: {problem}: {answer}", row.0));
        }
    }
    for arrival in
        arrived.iter().filter(|arrival| arrival.mentions("/smuggled/") || matches!(arrival, Arrival::NotPlain(..)))
    {
        wrong.push(format!("the upstream got {arrival}"));
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert_eq!(scene.agent.log().verify(), Ok(()));
}

/// What is not as it is wanted.
fn problem(wanted: Wanted, answer: &Value, mine: &[&Arrival]) -> Option<String> {
    let ended = answer["goaway"].as_u64().is_some_and(|code| code > 0) || answer["closed"] == true;
    let refused =
        answer["resets"]["1"].is_u64() || answer["statuses"]["1"].as_u64().is_some_and(|status| status != 200);
    let requests = mine.iter().filter(|arrival| matches!(arrival, Arrival::Request(_))).count();
    let right = match wanted {
        Wanted::Answer(method, body) => {
            let exactly = |arrival: &&&Arrival| matches!(arrival, Arrival::Request(plain) if plain.method == method && plain.body == body.as_bytes());
            let arrived = mine.iter().filter(exactly).count() == 1 && mine.len() == 1;
            return (answer["statuses"]["1"] != 200 || ended || !arrived)
                .then(|| format!("no answer; upstream {mine:?}"));
        }
        Wanted::Connection => ended && answer["pong"] == false,
        Wanted::Stream => refused && !ended && answer["pong"] == true,
        Wanted::Either => ended || refused,
    };
    // A good request may stand before the fault, or be it where only its stream is wrong behind its end.
    let most = usize::from(matches!(wanted, Wanted::Connection | Wanted::Either));
    if requests > most {
        return Some(format!("{requests} requests went upstream"));
    }
    (!right).then(|| format!("not what {wanted:?} is"))
}
