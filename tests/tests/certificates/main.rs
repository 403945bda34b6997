//! What an upstream may show and still get nothing: every way that a certificate can fail to prove a name.
//!
//! One agent, one function, a rule and an upstream of its own for each row. Each upstream keeps what it decrypts.
mod openssl;
mod rows;

use std::net::SocketAddr;

use dshield_tests::agent::{Agent, Egress, Log, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::scene::SECRET;
use dshield_tests::script::{self, run_with};
use dshield_tests::standin::origin::{Arrival, Origin};
use dshield_tests::wait;
use serde_json::{Value, json};

use openssl::Server;
use rows::Row;

/// Who shows a certificate.
enum Upstream {
    Origin(Origin),
    /// For what rustls does not do.
    Openssl(Server),
}

impl Upstream {
    fn addr(&self) -> SocketAddr {
        match self {
            Self::Origin(origin) => origin.addr(),
            Self::Openssl(server) => server.addr(),
        }
    }

    /// What it got after decryption, for people; empty when nothing.
    fn got(&self) -> String {
        match self {
            Self::Origin(origin) => {
                let plaintext = origin.arrived().into_iter().filter(|arrival| *arrival != Arrival::Connection);
                plaintext.map(|arrival| arrival.to_string()).collect()
            }
            Self::Openssl(server) => server.got(),
        }
    }
}

const POST: &str = "answer = ask(secure(event['host']), 'POST', '/', event['host'], body=event['body'])";

fn post(agent: &Agent, host: &str) -> Value {
    run_with(agent, "f", POST, json!({"host": host, "body": SECRET}))
}

fn start(rows: &[Row]) -> (Project, Agent) {
    let rule = |row: &Row| {
        let pin = json!([row.upstream.addr().to_string()]).to_string();
        Egress::to(&row.host).set("resolve", &pin).set("ca", &json!(row.ca.path()).to_string())
    };
    let function = rows.iter().fold(script::function("f").timeout("60s"), |function, row| function.egress(&rule(row)));
    let project = Project::new().with(&function);
    let agent = Agent::start(&project);
    (project, agent)
}

#[test]
fn an_upstream_that_does_not_prove_its_name_gets_not_one_byte() {
    if !require_root() || !requires("python3") || !requires("openssl") {
        return;
    }
    let rows: Vec<Row> = rows::refused().into_iter().chain(openssl::refused()).collect();
    // Beyond 32 a second, the refusals of one instance share an entry.
    rows.chunks(20).for_each(unproven);
}

fn unproven(rows: &[Row]) {
    let (_project, agent) = start(rows);
    let answers: Vec<Value> = rows.iter().map(|row| post(&agent, &row.host)).collect();
    let refused = |log: &Log, host: &str| {
        log.refused("f").iter().any(|refused| {
            (refused.layer.as_str(), refused.reason.as_str()) == ("upstream", "upstream_certificate")
                && refused.connection.is_some()
                && refused.detail.contains(host)
        })
    };
    let mut wrong = Vec::new();
    // The last refusal in the log comes after all others.
    let log = agent.log_with("a refusal for each row", |log| log.refused("f").len() >= rows.len());
    assert_eq!(log.verify(), Ok(()));
    for (row, answer) in rows.iter().zip(&answers) {
        if (&answer["status"], &answer["refused"]) != (&json!(502), &json!("upstream_certificate")) {
            wrong.push(format!("{}: the function got {answer}", row.what));
        }
        if !refused(&log, &row.host) {
            wrong.push(format!("{}: no refusal in the log", row.what));
        }
        let got = row.upstream.got();
        if !got.is_empty() {
            wrong.push(format!("{}: the upstream got {got}", row.what));
        }
    }
    assert!(wrong.is_empty(), "{}\n{log}", wrong.join("\n"));
}

/// What shows that the upstreams above would have written down what they got.
#[test]
fn an_upstream_that_proves_its_name_gets_the_request() {
    if !require_root() || !requires("python3") || !requires("openssl") {
        return;
    }
    let rows: Vec<Row> = rows::good().into_iter().chain([openssl::good()]).collect();
    let (_project, agent) = start(&rows);
    std::thread::scope(|scope| {
        for row in &rows {
            // `openssl s_server` does not answer by itself.
            if let Upstream::Openssl(server) = &row.upstream {
                scope.spawn(|| {
                    wait::until("the request", || server.got().contains(SECRET).then_some(()));
                    server.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                });
            }
            let answer = post(&agent, &row.host);
            assert_eq!(answer["status"], 200, "{}: {answer}", row.what);
            let expected = match &row.upstream {
                Upstream::Origin(_) => format!("POST / {SECRET}"),
                Upstream::Openssl(_) => SECRET.to_owned(),
            };
            let got = match &row.upstream {
                Upstream::Origin(origin) => origin.arrived().into_iter().find_map(|arrival| match arrival {
                    Arrival::Request(plain) => {
                        Some(format!("{} {} {}", plain.method, plain.target, String::from_utf8_lossy(&plain.body)))
                    }
                    _ => None,
                }),
                Upstream::Openssl(server) => Some(server.got()),
            };
            assert!(got.as_deref().is_some_and(|got| got.contains(&expected)), "{}: {got:?}", row.what);
        }
    });
    assert!(agent.log().refused("f").is_empty(), "{}", agent.log());
}
