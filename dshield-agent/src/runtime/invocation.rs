//! What comes of an invocation, in the words of Lambda.
use std::time::Duration;

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use super::launch::LaunchError;
use crate::instance::Exit;
use crate::log::LogError;

/// A finished invocation: the function ran, or failed by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// What the function returned, or its error in Lambda's JSON form.
    pub payload: Bytes,
    /// How it ended.
    pub ending: Ending,
    /// From the moment the log had its `begin`; includes loading the function when that took longer.
    pub duration: Duration,
    /// The number of the log entry with which it began, which is durable.
    pub seq: Option<u64>,
}

/// How an invocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// The function returned.
    Ok,
    /// The function reported an error, or could not be initialised.
    Error,
    /// The function did not answer in time and was stopped.
    Timeout,
    /// The function's process ended before it answered.
    Crash,
}

impl Ending {
    /// The word for it in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Crash => "crash",
        }
    }
}

/// Why the function did not run, or not to an end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvokeError {
    /// The caller's: all instances are busy. Try again later, or raise `concurrency`.
    #[error("all {concurrency} instances of the function are busy")]
    TooManyRequests {
        /// The function's limit.
        concurrency: u32,
    },
    /// The operator's: no instance could be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The operator's: without a log entry nothing runs.
    #[error("the log did not take the invocation's entry")]
    Log(#[from] LogError),
    /// Nobody's: the agent is stopping or has replaced the function.
    #[error("the function is being stopped")]
    Stopped,
}

/// A new request id: a random UUID (RFC 9562, version 4).
#[must_use]
pub fn request_id() -> String {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes).expect("the kernel has random numbers once the agent has made its keys");
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Lambda's JSON form of an error.
pub(super) fn error_json(error_type: &str, message: &str) -> Bytes {
    // serde_json would sort the names; Lambda's order reads better.
    format!("{{\"errorType\":{},\"errorMessage\":{}}}", json!(error_type), json!(message)).into()
}

/// What the caller gets when the process ended before it answered.
pub(super) fn crash_json(request_id: &str, exit: Option<&Exit>) -> Bytes {
    let how = match exit {
        Some(Exit::Code(0)) | None => "Runtime exited without providing a reason".to_owned(),
        Some(Exit::Code(code)) => format!("Runtime exited with error: exit status {code}"),
        Some(Exit::Signal(signal)) => format!("Runtime exited with error: signal: {}", signal_name(*signal)),
    };
    error_json("Runtime.ExitError", &format!("RequestId: {request_id} Error: {how}"))
}

/// What the caller gets when the function did not answer in time.
pub(super) fn timeout_json(request_id: &str, limit: Duration) -> Bytes {
    let seconds = limit.as_secs_f64();
    error_json("Sandbox.Timedout", &format!("RequestId: {request_id} Error: Task timed out after {seconds:.2} seconds"))
}

/// What the caller gets when the function was not ready in time.
pub(super) fn init_timeout_json(request_id: &str, limit: Duration) -> Bytes {
    let seconds = limit.as_secs_f64();
    let message = format!("RequestId: {request_id} Error: Initialization timed out after {seconds:.2} seconds");
    error_json("Sandbox.Timedout", &message)
}

/// What the caller gets when the function answered with too much.
pub(super) fn too_large_json(limit: usize) -> Bytes {
    let message = format!("Response payload size exceeded maximum allowed payload size ({limit} bytes).");
    error_json("Function.ResponseSizeTooLarge", &message)
}

/// The signals a crashing program ends with, as Lambda (Go's `syscall.Signal`) calls them.
fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGILL => "illegal instruction",
        libc::SIGKILL => "killed",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGSYS => "bad system call",
        libc::SIGTERM => "terminated",
        _ => return signal.to_string(),
    }
    .to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_a_version_4_uuid() {
        let id = request_id();
        let lengths: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
        assert_eq!(&id[14..15], "4");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        assert_ne!(id, request_id());
    }

    #[test]
    fn failures_read_as_on_lambda() {
        assert_eq!(
            timeout_json("r-1", Duration::from_secs(3)),
            r#"{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: r-1 Error: Task timed out after 3.00 seconds"}"#
        );
        assert_eq!(
            crash_json("r-1", Some(&Exit::Code(1))),
            r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r-1 Error: Runtime exited with error: exit status 1"}"#
        );
        assert_eq!(
            crash_json("r-1", Some(&Exit::Signal(9))),
            r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r-1 Error: Runtime exited with error: signal: killed"}"#
        );
        assert_eq!(
            crash_json("r-1", Some(&Exit::Code(0))),
            r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r-1 Error: Runtime exited without providing a reason"}"#
        );
    }
}
