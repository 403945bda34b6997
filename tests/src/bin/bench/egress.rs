//! Keep-alive requests through `tls = "inspect"`, against the same client talking to the upstream directly.
use std::process::{Command, Stdio};

use dshield_tests::agent::{Agent, Egress, Function, Launch, Project};
use dshield_tests::built;
use dshield_tests::client::Error;
use dshield_tests::standin::{NAME, Standin};
use serde_json::{Value, json};

use crate::Effort;
use crate::table::Row;

/// Requests per second and median latency, with one connection and with sixteen.
pub fn keep_alive(effort: Effort) -> Result<Vec<Row>, Error> {
    const PEER: &str = "the same client and upstream, directly";
    let standin = Standin::start();
    let rule = Egress::to_standin(&standin).methods(&["POST"]).paths(&["/echo/*"]);
    let project = Project::new().with(&Function::probe("native").timeout("120s").egress(&rule));
    let agent = Agent::launch(&project, Launch::default())?;
    let mut rows = Vec::new();
    for connections in [1, 16] {
        let milliseconds = u64::try_from(effort.load.as_millis())?;
        let mut event = json!({
            "do": "load", "host": NAME, "path": "/echo/", "connections": connections,
            "body_bytes": 256, "ms": milliseconds,
        });
        let with = checked(agent.call("native", &event))?;
        event["address"] = json!(standin.addr().to_string());
        let without = checked(directly(&standin, &event)?)?;
        let number = |figures: &Value, field: &str| figures[field].as_f64().unwrap_or(0.0);
        rows.push(Row {
            what: format!("inspected requests, {connections} connection(s)"),
            with: number(&with, "per_second"),
            without: number(&without, "per_second"),
            unit: "1/s",
            peer: PEER,
        });
        for percent in ["p50", "p99"] {
            rows.push(Row {
                what: format!("inspected request, {connections} connection(s), {percent}"),
                with: number(&with, &format!("{percent}_us")) / 1000.0,
                without: number(&without, &format!("{percent}_us")) / 1000.0,
                unit: "ms",
                peer: PEER,
            });
        }
    }
    Ok(rows)
}

fn directly(standin: &Standin, event: &Value) -> Result<Value, Error> {
    let probe = built("probe").ok_or("the probe is not built")?;
    let output = Command::new(probe)
        .arg(event.to_string())
        .env("SSL_CERT_FILE", standin.ca_file())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A figure counts only when no request failed.
fn checked(figures: Value) -> Result<Value, Error> {
    let clean = figures["errors"].as_array().is_some_and(Vec::is_empty) && figures["requests"].as_u64() > Some(0);
    if clean { Ok(figures) } else { Err(figures.to_string().into()) }
}
