//! Request smuggling, tried by the function: raw bytes to the one allowed name, and what the upstream made of them.
//!
//! The corpus is in [`framing`] and [`heads`]. After each row's bytes the function sends one more request on the same connection: the
//! answer to it tells whether the connection was closed, and bytes left over from the row would spoil it.
mod framing;
mod heads;
mod rows;

use dshield_tests::agent::{Agent, Egress, Log, Project};
use dshield_tests::requires::{require_root, requires};
use dshield_tests::script::{self, run_with};
use dshield_tests::standin::origin::{Arrival, Origin};
use dshield_tests::standin::strict::Plain;
use dshield_tests::standin::tls::Issued;
use serde_json::{Value, json};

use rows::{FORBIDDEN, HOST, Row, Rows, Wanted};

/// Instances that try rows at the same time.
const WORKERS: usize = 6;

/// Sends the row, then one more request unless the connection has ended, and reads to the end.
const TALK: &str = r#"
def talk(stream):
    got, end = b'', None
    def read(patience, enough):
        nonlocal got, end
        stream.settimeout(patience)
        try:
            while end is None and not enough():
                more = stream.recv(65536)
                got += more
                end = None if more else 'closed'
        except TimeoutError:
            pass
        except OSError:
            end = 'closed'
    def send(data):
        # A connection that was reset still has its answer.
        failure(stream.sendall, data)
    send(event['row'].encode('latin-1'))
    # A head that has no end waits for what follows. An answer that comes later finds it sent already, which changes nothing.
    read(2, lambda: got)
    # An answer that closes says so with its end, a moment later.
    read(0.15, lambda: False)
    if end is None:
        send(event['after'].encode('latin-1'))
        # It always ends by itself.
        read(20, lambda: False)
    return {'got': got.decode('latin-1'), 'end': end}
if event['tls']:
    stream = secure(event['host'])
else:
    stream = socket.create_connection((event['host'], 80))
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
answer = talk(stream)
"#;

#[test]
fn no_request_is_smuggled_over_plain_http() {
    check(false);
}

#[test]
fn no_request_is_smuggled_inside_tls() {
    check(true);
}

fn check(tls: bool) {
    if !require_root() || !requires("python3") {
        return;
    }
    let authority = Issued::authority(|_| ());
    let origin = Origin::start(tls.then(|| authority.leaf(&[HOST], |_| ()).server(&[])));
    let (_project, agent) = start(&origin, tls.then_some(&authority));
    let rows = corpus();
    let outcomes = run(&agent, &rows, tls);
    let log = refusals(&agent, &rows);
    assert_eq!(log.verify(), Ok(()));
    let arrived = origin.arrived();
    let mut wrong = Vec::new();
    for (row, outcome) in rows.iter().zip(&outcomes) {
        let problems = outcome.problems(row, &arrived, &log);
        if problems.is_empty() {
            continue;
        }
        let beginning: String = outcome.got.chars().take(150).collect();
        wrong.push(format!("{}: {}; the function got {beginning:?}", row.name, problems.join("; ")));
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

fn corpus() -> Vec<Row> {
    let mut rows = Rows(Vec::new());
    framing::add(&mut rows);
    heads::add(&mut rows);
    rows.0
}

/// Rows share nothing but the pool of connections upstream, so they go side by side.
fn run(agent: &Agent, rows: &[Row], tls: bool) -> Vec<Outcome> {
    let part = rows.len().div_ceil(WORKERS);
    std::thread::scope(|scope| {
        let workers: Vec<_> = rows
            .chunks(part)
            .map(|rows| scope.spawn(move || rows.iter().map(|row| Outcome::of(agent, row, tls)).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("its panic was printed")).collect()
    })
}

/// The log, once every refusal is in it: they come a moment later.
fn refusals(agent: &Agent, rows: &[Row]) -> Log {
    let refused = |row: &&Row| matches!(row.wanted, Wanted::Refused(_) | Wanted::Denied(_));
    let least = rows.iter().filter(refused).count();
    // Many at once become one entry with their count.
    let told = |log: &Log| log.refused("f").iter().map(|refused| refused.count.unwrap_or(1)).sum::<u64>();
    agent.log_with("a refusal for each row", |log| told(log) >= least as u64)
}

fn start(origin: &Origin, authority: Option<&Issued>) -> (Project, Agent) {
    let pin = json!([origin.addr().to_string()]).to_string();
    let rule = Egress::to(HOST).methods(&["GET", "POST", "OPTIONS"]).paths(&["/row/*"]).set("resolve", &pin);
    let mut project = Project::new();
    let rule = match authority {
        Some(authority) => {
            let file = project.folder().join("upstream-ca.pem");
            std::fs::write(&file, authority.certificate.pem()).expect("the folder is ours");
            rule.set("ca", &json!(file).to_string())
        }
        None => rule.tls("none").set("ports", "[80]"),
    };
    project = project.with(&script::function("f").timeout("30s").concurrency(WORKERS as u32).egress(&rule));
    let agent = Agent::start(&project);
    (project, agent)
}

/// What the function saw of a row.
struct Outcome {
    /// Everything that came back.
    got: String,
    /// The status of each answer but `100`, in order.
    statuses: Vec<u16>,
    /// The last `x-dshield-refused`.
    refused: Option<String>,
    closed: bool,
}

impl Outcome {
    fn of(agent: &Agent, row: &Row, tls: bool) -> Self {
        let after = format!("GET {} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n", row.after());
        let event = json!({"tls": tls, "host": HOST, "row": row.bytes(tls), "after": after});
        let answer: Value = run_with(agent, "f", TALK, event);
        let got = answer["got"].as_str().unwrap_or_default().to_owned();
        let heads = got.split("HTTP/1.").skip(1);
        let statuses = heads.filter_map(|head| head.get(2..5)?.parse().ok()).filter(|status| *status != 100).collect();
        let field = |line: &str| Some(line.strip_prefix("x-dshield-refused: ")?.trim().to_owned());
        let refused = got.lines().rev().find_map(field);
        Self { got, statuses, refused, closed: answer["end"] == "closed" }
    }

    /// What is not as the row wants it.
    fn problems(&self, row: &Row, arrived: &[Arrival], log: &Log) -> Vec<String> {
        let mine: Vec<&Arrival> = arrived.iter().filter(|arrival| arrival.mentions(&row.target())).collect();
        let (after, mine): (Vec<&Arrival>, Vec<&Arrival>) =
            mine.into_iter().partition(|arrival| matches!(arrival, Arrival::Request(p) if p.target == row.after()));
        let mut problems: Vec<String> = mine
            .iter()
            .filter(|arrival| matches!(arrival, Arrival::NotPlain(..)))
            .map(|arrival| format!("the upstream got what is {arrival}"))
            .collect();
        let whole: Vec<&Plain> = mine
            .iter()
            .filter_map(|arrival| if let Arrival::Request(plain) = arrival { Some(plain) } else { None })
            .collect();
        if !self.closed {
            problems.push("the connection was still open".into());
        }
        if whole.iter().any(|plain| plain.target.starts_with(FORBIDDEN)) {
            problems.push("a path that no rule allows reached the upstream".into());
        }
        problems.extend(whole.iter().filter_map(|plain| foreign_field(plain)));
        match &row.wanted {
            Wanted::Refused(requests) => {
                problems.extend(self.not_refused(*requests));
                problems.extend((!after.is_empty()).then(|| "the connection went on".to_owned()));
                problems.extend(wrong_count(&whole, *requests));
                problems.extend(self.untold(log));
            }
            Wanted::Denied(requests) => {
                problems.extend(self.not_refused(*requests));
                problems.extend(wrong_count(&whole, *requests));
                problems.extend(self.untold(log));
            }
            Wanted::Closed => {
                problems.extend(wrong_count(&whole, 0));
                let good = self.statuses.iter().any(|status| *status < 400);
                problems.extend((good || !after.is_empty()).then(|| format!("answered {:?}", self.statuses)));
            }
            Wanted::Clean(check) => {
                problems.extend(wrong_count(&whole, 1));
                problems.extend(whole.iter().filter_map(|plain| check.problem(plain)));
                let answered = self.statuses.first() == Some(&200);
                problems.extend((!answered).then(|| format!("answered {:?}", self.statuses)));
            }
            Wanted::Either(_) if whole.is_empty() => problems.extend(self.not_refused(0)),
            Wanted::Either(check) => {
                problems.extend(wrong_count(&whole, 1));
                problems.extend(whole.iter().filter_map(|plain| check.problem(plain)));
            }
        }
        problems
    }

    /// After `requests` good answers comes one that refuses; what comes after that is the request that follows.
    fn not_refused(&self, requests: usize) -> Option<String> {
        let refused = |status: &u16| matches!(status, 400..=431 | 501 | 505);
        let good = self.statuses.iter().take(requests).all(|status| *status == 200);
        let right = good && self.statuses.get(requests).is_some_and(refused);
        (!right).then(|| format!("answered {:?}, not refused", self.statuses))
    }

    /// The function is told why, and the log has the same word.
    fn untold(&self, log: &Log) -> Option<String> {
        let Some(reason) = &self.refused else { return Some("no x-dshield-refused".into()) };
        let logged = log.refused("f").iter().any(|refused| refused.layer == "http" && refused.reason == *reason);
        (!logged).then(|| format!("no entry for {reason}"))
    }
}

fn wrong_count(whole: &[&Plain], wanted: usize) -> Option<String> {
    let seen: Vec<_> = whole.iter().map(|plain| format!("{} {}", plain.method, plain.target)).collect();
    (whole.len() != wanted).then(|| format!("the upstream got {seen:?}, and {wanted} was right"))
}

/// A field that belongs to the function's own connection.
fn foreign_field(plain: &Plain) -> Option<String> {
    let own = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings", "expect"];
    let all = || plain.fields.iter().chain(&plain.trailers);
    if let Some((name, value)) = all().find(|field| own.contains(&field.0.as_str())) {
        return Some(format!("the upstream got {name}: {value}"));
    }
    let framing = ["host", "content-length", "transfer-encoding", "authorization"];
    let trailer = plain.trailers.iter().find(|field| framing.contains(&field.0.as_str()))?;
    Some(format!("the upstream got the trailer {}: {}", trailer.0, trailer.1))
}
