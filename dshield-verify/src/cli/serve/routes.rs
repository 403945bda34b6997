//! What a request asks for: a method and a path flow in, an answer flows out.
//!
//! Paths are compared as they are written. The one part of them that strangers choose is looked up among the configured
//! names; nothing is decoded, so nothing in a path can mean a host or a file.
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::standing::{Moment, Standing};
use super::watch::{Known, Watch};
use super::{Service, badge, page, posted};
use crate::time;

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/page.js");
const ICON: &str = include_str!("assets/icon.svg");

const ROUTES: &str = "/, /deployments/{name}, /v1/deployments, /v1/deployments/{name}/verdict, …/badge.svg, …/evidence, …/checkpoint, …/expect, POST …/look, POST /v1/verify, /healthz";

/// Answers a request.
pub(super) async fn answer(service: &Arc<Service>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let posts = request.method() == Method::POST;
    match segments.as_slice() {
        ["v1", "verify"] if posts => posted::verify(service, request).await,
        ["v1", "verify"] => answer::wrong_method("POST"),
        ["deployments", name, "look"] | ["v1", "deployments", name, "look"] => {
            let Some(watch) = service.watch(name) else { return unknown() };
            if !posts {
                return answer::wrong_method("POST");
            }
            // Whoever finds no room is told what is known already.
            if let Ok(_waiting) = service.waiting.try_acquire() {
                watch.look_again().await;
            }
            match segments[0] {
                "v1" => verdict(watch),
                // Relative, so that it leads back through whatever is in front.
                _ => answer::see_other(&format!("../{}", watch.configured().name)),
            }
        }
        _ if !reads => match read(service, &segments) {
            Some(_) => answer::wrong_method("GET, HEAD"),
            None => unknown(),
        },
        _ => read(service, &segments).unwrap_or_else(unknown),
    }
}

/// What there is to read at a path.
fn read(service: &Service, segments: &[&str]) -> Option<Answer> {
    Some(match segments {
        [""] => answer::page(StatusCode::OK, page::index(service)),
        ["healthz"] => answer::text(StatusCode::OK, "ok\n"),
        ["assets", "style.css"] => answer::asset("text/css; charset=utf-8", STYLE),
        ["assets", "page.js"] => answer::asset("text/javascript; charset=utf-8", SCRIPT),
        ["assets", "icon.svg"] => answer::asset("image/svg+xml", ICON),
        ["deployments", name] => answer::page(StatusCode::OK, page::deployment(service.watch(name)?)),
        ["v1", "deployments"] => {
            let all: Vec<Value> = service.watches.values().map(|watch| summary(watch, &watch.known())).collect();
            answer::json(StatusCode::OK, &json!({ "deployments": all }))
        }
        ["v1", "deployments", name, rest @ ..] => about(service.watch(name)?, rest)?,
        _ => return None,
    })
}

/// What there is to read about one deployment.
fn about(watch: &Watch, what: &[&str]) -> Option<Answer> {
    let configured = watch.configured();
    let known = watch.known();
    let finding = known.finding.as_ref();
    Some(match what {
        ["verdict"] => verdict(watch),
        ["badge.svg"] => {
            let (standing, age) = known.standing(&Moment::now(), configured.max_age);
            let judged = finding.map_or(0, |finding| finding.began.wall);
            let svg = badge::svg(standing, judged, configured.max_age);
            answer::badge(svg, badge::keep(standing, age, configured.max_age))
        }
        ["evidence"] => match finding {
            Some(finding) => {
                let name = format!("evidence-{}.json", configured.name);
                answer::download("application/json", &name, finding.evidence.clone())
            }
            None => no_verdict(&known),
        },
        ["checkpoint"] => match finding.map(|finding| finding.checkpoint.clone()) {
            Some(Some(note)) => plain(&format!("checkpoint-{}.txt", configured.name), note),
            Some(None) => {
                let message = "the log was not asked for: nothing attested says whose it is";
                answer::error(StatusCode::NOT_FOUND, "no_checkpoint", message)
            }
            None => no_verdict(&known),
        },
        ["expect"] => plain("expect.toml", configured.documents.first()?.bytes.clone()),
        ["expect", number] => {
            let number: usize = number.parse().ok()?;
            let document = configured.documents.get(number)?;
            // A browser keeps it under the name that the page gives it.
            plain(&format!("expect-{number}"), document.bytes.clone())
        }
        _ => return None,
    })
}

/// The last verdict, and what it is worth.
fn verdict(watch: &Watch) -> Answer {
    let known = watch.known();
    let Some(finding) = &known.finding else { return no_verdict(&known) };
    let mut value = summary(watch, &known);
    if let Value::Object(members) = &mut value {
        members.insert("nonce".to_owned(), json!(finding.nonce.map(|nonce| nonce.to_string())));
        members.insert("verdict".to_owned(), json!(finding.verdict));
    }
    answer::json(StatusCode::OK, &value)
}

/// What is known of a deployment, in short.
fn summary(watch: &Watch, known: &Known) -> Value {
    let configured = watch.configured();
    let (standing, age) = known.standing(&Moment::now(), configured.max_age);
    let failure = known
        .failure
        .as_ref()
        .map(|failure| json!({ "at": time::rfc3339(failure.began.wall), "message": failure.why }));
    let mut value = json!({
        "name": configured.name.as_str(),
        "url": configured.public_url,
        "standing": standing,
        "max_age_seconds": configured.max_age.as_secs(),
        "failure": failure,
    });
    if let (Value::Object(members), Some(finding)) = (&mut value, &known.finding) {
        members.insert("judged_at".to_owned(), json!(time::rfc3339(finding.began.wall)));
        members.insert("age_seconds".to_owned(), json!(age.as_secs()));
        members.insert("stale".to_owned(), json!(age >= configured.max_age));
    }
    value
}

fn plain(name: &str, bytes: Bytes) -> Answer {
    answer::download("text/plain; charset=utf-8", name, bytes)
}

fn no_verdict(known: &Known) -> Answer {
    let message = match &known.failure {
        Some(failure) => format!("no verdict yet: {}", failure.why),
        None => "no verdict yet: the first look is under way".to_owned(),
    };
    answer::error(StatusCode::SERVICE_UNAVAILABLE, Standing::Nothing.name(), &message)
}

fn unknown() -> Answer {
    let message = format!("there is no such path or deployment; what there is: {ROUTES}");
    answer::error(StatusCode::NOT_FOUND, "not_found", &message)
}
