//! `dshield invoke`: sends an event to a function and prints what it returned.
//!
//! The payload goes to stdout, everything else to stderr. Exit status 0 when the function returned, 1 when it
//! failed or was not run, 2 when the command itself is wrong.
use std::io::{self, Read, Write};
use std::process::ExitCode;

use bytes::Bytes;
use http::{Method, Response};
use hyper::body::Incoming;
use serde_json::Value;

use super::whom::AgentArgs;
use dshield_verify::client::{Client, ClientError, encode_segment, printable};

/// Invoke a function and print what it returns
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  dshield invoke hello --data '{\"name\": \"Ada\"}'\n  dshield invoke hello --data @event.json\n  echo '{}' | dshield invoke hello --data -"
)]
pub struct InvokeArgs {
    /// The function's name
    pub name: String,
    /// The event: JSON, @FILE, or - for standard input
    #[arg(long, short, value_name = "JSON|@FILE|-", default_value = "{}", hide_default_value = true)]
    pub data: String,
    /// The agent
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// Runs the command.
pub async fn run(args: InvokeArgs) -> ExitCode {
    let data = match read_data(&args.data) {
        Ok(data) => data,
        Err(problem) => return fail(2, &problem),
    };
    let client = match args.agent.client() {
        Ok(client) => client,
        Err(error) => return fail(2, &error.to_string()),
    };
    match invoke(&client, &args.name, data).await {
        Ok(code) => code,
        Err(error) => fail(1, &error.to_string()),
    }
}

async fn invoke(client: &Client, name: &str, data: Bytes) -> Result<ExitCode, ClientError> {
    let path = format!("/2015-03-31/functions/{}/invocations", encode_segment(name));
    let response = client.send(Method::POST, &path, data).await?;
    if !response.status().is_success() {
        return Ok(fail(1, &not_run(client, response).await?));
    }
    let failed = response.headers().contains_key("x-amz-function-error");
    let payload = client.body(response).await?;
    let mut out = io::stdout().lock();
    let end: &[u8] = if payload.ends_with(b"\n") { b"" } else { b"\n" };
    let written = out.write_all(&payload).and_then(|()| out.write_all(end)).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Ok(fail(1, &format!("the payload could not be written: {error}")));
    }
    if !failed {
        return Ok(ExitCode::SUCCESS);
    }
    let error: Value = serde_json::from_slice(&payload).unwrap_or_default();
    let text = |name: &str| error[name].as_str().unwrap_or("?").to_owned();
    Ok(fail(1, &format!("the function failed: {}: {}", text("errorType"), text("errorMessage"))))
}

/// Why the agent did not run the function, with what to do about it where that is known.
async fn not_run(client: &Client, response: Response<Incoming>) -> Result<String, ClientError> {
    let status = response.status();
    let kind = response.headers().get("x-amzn-errortype").and_then(|kind| kind.to_str().ok()).map(str::to_owned);
    let body: Value = serde_json::from_slice(&client.body(response).await?).unwrap_or_default();
    let message = body["message"].as_str().or(body["Message"].as_str()).unwrap_or("no reason given");
    let Some(kind) = kind else {
        return Ok(format!("what answers at this address is not a D-Shield agent (status {status}); check --url"));
    };
    let hint = match kind.as_str() {
        "ResourceNotFoundException" => match functions(client).await? {
            names if names.is_empty() => "; no functions are deployed".to_owned(),
            names => format!("; there are: {}", names.join(", ")),
        },
        "TooManyRequestsException" => " All its instances are busy: try again, or raise `concurrency`.".to_owned(),
        _ => String::new(),
    };
    Ok(format!("the function was not run: {message}{hint}"))
}

async fn functions(client: &Client) -> Result<Vec<String>, ClientError> {
    let response = client.send(Method::GET, "/v1/functions", Bytes::new()).await?;
    let body: Value = serde_json::from_slice(&client.body(response).await?).unwrap_or_default();
    let functions = body["functions"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(functions.iter().filter_map(|function| function["name"].as_str()).map(str::to_owned).collect())
}

fn read_data(data: &str) -> Result<Bytes, String> {
    if data == "-" {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map_err(|error| format!("standard input: {error}"))?;
        return Ok(bytes.into());
    }
    match data.strip_prefix('@') {
        Some(file) => std::fs::read(file)
            .map(Bytes::from)
            .map_err(|error| format!("--data @{file}: {error}; name a file that can be read, or give the JSON itself")),
        None => Ok(data.to_owned().into()),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    eprintln!("dshield: {}", printable(message));
    ExitCode::from(code)
}
