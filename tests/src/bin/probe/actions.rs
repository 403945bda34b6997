//! What an event can ask for.
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dshield_tests::load;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Why there is no answer.
#[derive(Debug)]
pub enum Stop {
    /// A step did not work: part of what is tested.
    Failed {
        /// `resolve`, `connect`, `tls`, …
        step: &'static str,
        /// What the system said.
        why: String,
    },
    /// The function itself fails.
    Error(String),
}

/// Names the step that failed.
pub fn step<T, E: std::fmt::Display>(step: &'static str, result: Result<T, E>) -> Result<T, Stop> {
    result.map_err(|error| Stop::Failed { step, why: error.to_string() })
}

/// A text field that the event must have.
pub fn text<'a>(event: &'a Value, field: &str) -> Result<&'a str, Stop> {
    event[field].as_str().ok_or_else(|| Stop::Error(format!("the event has no text {field:?}: {event}")))
}

/// Does what `event` says.
pub async fn act(event: &Value) -> Result<Value, Stop> {
    match text(event, "do")? {
        "echo" => Ok(event.clone()),
        "fail" => Err(Stop::Error(text(event, "message")?.to_owned())),
        "exit" => {
            if event["first"].is_object() {
                // Whether it worked is what the log tells.
                let _ = Box::pin(act(&event["first"])).await;
            }
            // The code of a process is eight bits.
            std::process::exit(i32::from(event["code"].as_u64().unwrap_or(1) as u8))
        }
        "sleep" => {
            tokio::time::sleep(Duration::from_millis(event["ms"].as_u64().unwrap_or(0))).await;
            Ok(json!({"slept": true}))
        }
        "resolve" => resolve(text(event, "name")?).await,
        "tcp" => tcp(address(event)?, text(event, "send")?).await,
        "udp" => udp(address(event)?, text(event, "send")?).await,
        "https" => crate::https::request(event).await,
        "run" => run(event).await,
        "load" => step("load", load::measure(event, bundle()?).await),
        "connect_forever" => connect_forever(text(event, "host")?, text(event, "report")?).await,
        other => Err(Stop::Error(format!("unknown action {other:?}"))),
    }
}

fn address(event: &Value) -> Result<SocketAddr, Stop> {
    text(event, "address")?.parse().map_err(|error| Stop::Error(format!("{error}: {event}")))
}

async fn resolve(name: &str) -> Result<Value, Stop> {
    let found = step("resolve", tokio::net::lookup_host((name, 443)).await)?;
    let mut addresses: Vec<_> = found.map(|address| address.ip().to_string()).collect();
    addresses.sort();
    addresses.dedup();
    Ok(json!({ "addresses": addresses }))
}

async fn tcp(address: SocketAddr, send: &str) -> Result<Value, Stop> {
    let connecting = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(address));
    let mut stream = step("connect", step("connect", connecting.await)?)?;
    step("send", stream.write_all(send.as_bytes()).await)?;
    let mut received = vec![0; 4096];
    let reading = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut received));
    let length = step("receive", step("receive", reading.await)?)?;
    if length == 0 {
        return step("receive", Err("closed"));
    }
    Ok(json!({"received": String::from_utf8_lossy(&received[..length])}))
}

async fn udp(address: SocketAddr, send: &str) -> Result<Value, Stop> {
    let socket = step("socket", UdpSocket::bind("0.0.0.0:0").await)?;
    Ok(json!({"sent": step("send", socket.send_to(send.as_bytes(), address).await)?}))
}

async fn run(event: &Value) -> Result<Value, Stop> {
    let line: Vec<&str> = event["argv"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (program, arguments) = line.split_first().ok_or_else(|| Stop::Error("argv is empty".into()))?;
    let output = tokio::process::Command::new(program).args(arguments).output().await;
    let output = step("run", output)?;
    Ok(json!({
        "code": output.status.code(),
        "stdout": String::from_utf8_lossy(&output.stdout),
        "stderr": String::from_utf8_lossy(&output.stderr),
    }))
}

/// The certificates that the sandbox offers to every program.
pub fn bundle() -> Result<PathBuf, Stop> {
    std::env::var_os("SSL_CERT_FILE").map(PathBuf::from).ok_or_else(|| Stop::Error("SSL_CERT_FILE is not set".into()))
}

/// Connects again and again, and writes one line for each attempt to the file `report`: when it began
/// (microseconds of the system's clock) and `connected` or the error.
async fn connect_forever(host: &str, report: &str) -> Result<Value, Stop> {
    let mut report = step("report", std::fs::File::create(report))?;
    let found = step("resolve", tokio::net::lookup_host((host, 443)).await)?.next();
    let address = found.ok_or_else(|| Stop::Error(format!("{host} has no address")))?;
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let attempt = tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(address)).await;
        let outcome = match attempt {
            Ok(Ok(_)) => "connected".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "timed out".to_owned(),
        };
        step("report", writeln!(report, "{now} {outcome}"))?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
