//! The one place that decides about a request.
use std::sync::Arc;

use ::http::header::{self, HeaderName};
use ::http::{Method, Request, StatusCode};
use dshield_common::destination::{AuthorityError, Destination};
use dshield_common::log::entry::Attempt;
use dshield_common::policy::{Denied, Permit, Rule, TlsMode};

use super::framing::Violation;
use super::refusal::{self, Refusal};
use super::tunnel;
use crate::proxy::NO_RULE;
use crate::proxy::allowed::Allowed;
use crate::proxy::body::BodyError;
use crate::proxy::limits::Place;

/// The longest path and method that surely fit a log entry, with every character escaped.
const LONGEST_TARGET: usize = 8 << 10;

/// Fields by which frameworks let a request be another method than its own.
static METHOD_OVERRIDES: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

/// The rule that allows a request on this connection.
pub(super) fn request<B: ::http_body::Body>(
    connection: &Allowed,
    request: &Request<B>,
) -> Result<(Arc<Rule>, Place), Box<Refusal>> {
    let case = Case { connection, request };
    case.target()?;
    case.authority()?;
    let rule = case.rule()?;
    case.method_is_what_it_says()?;
    case.upgrade(&rule)?;
    case.echo(&rule)?;
    case.size(&rule)?;
    let place = case.place(&rule)?;
    Ok((rule, place))
}

/// Why a body was not let through to its end, where that is a refusal.
#[derive(Debug)]
pub(super) struct BodyFault {
    status: StatusCode,
    reason: &'static str,
    detail: String,
}

impl BodyFault {
    /// `None` where it just ended.
    pub(super) fn of(error: &BodyError) -> Option<Self> {
        let (status, reason, detail) = match error {
            BodyError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", error.to_string()),
            BodyError::Http(error) => {
                (StatusCode::BAD_REQUEST, refusal::AMBIGUOUS, Violation::behind(error)?.to_string())
            }
        };
        Some(Self { status, reason, detail })
    }

    /// What it means for the request.
    pub(super) fn refusal(&self, connection: &Allowed, rule: &Rule) -> Refusal {
        let detail = format!("request to {}: {}", connection.route.to, self.detail);
        Refusal::of_traffic(self.status, self.reason, detail, rule.id.clone(), connection.attempt())
    }
}

/// One request on its connection.
struct Case<'a, B> {
    connection: &'a Allowed,
    request: &'a Request<B>,
}

impl<B: ::http_body::Body> Case<'_, B> {
    fn refusal(&self, status: StatusCode, reason: &'static str, detail: String) -> Box<Refusal> {
        let rule = self.connection.route.rule_id().to_owned();
        Box::new(Refusal::of_traffic(status, reason, detail, rule, self.attempt()))
    }

    fn denied(&self, denied: &Denied) -> Box<Refusal> {
        let status = match denied {
            Denied::Rate { .. } | Denied::Concurrency { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::FORBIDDEN,
        };
        Box::new(Refusal {
            status,
            reason: denied.reason(),
            detail: denied.to_string(),
            rule: denied.rule().unwrap_or(NO_RULE).to_owned(),
            hint: denied.hint(),
            attempt: self.attempt(),
        })
    }

    fn attempt(&self) -> Attempt {
        let path: String = self.request.uri().path().chars().take(LONGEST_TARGET).collect();
        let method: String = self.request.method().as_str().chars().take(LONGEST_TARGET).collect();
        Attempt { method: Some(method), path: Some(path), ..self.connection.attempt() }
    }

    fn target(&self) -> Result<(), Box<Refusal>> {
        let to = &self.connection.route.to;
        let length = self.request.method().as_str().len() + self.request.uri().path().len();
        if length > LONGEST_TARGET {
            let detail = format!("request to {to} with method and path of {length} bytes");
            return Err(self.refusal(StatusCode::URI_TOO_LONG, "target_too_long", detail));
        }
        if self.request.method() == Method::CONNECT {
            let detail = format!("CONNECT inside the connection to {to}");
            return Err(self.refusal(StatusCode::FORBIDDEN, "connect_inside", detail));
        }
        // RFC 9112, section 3.2: a lone authority is CONNECT's, and `*` is for OPTIONS. Upstream they would become paths.
        let path = self.request.uri().path();
        if path.is_empty() || path == "*" && self.request.method() != Method::OPTIONS {
            let detail = format!("request to {to} with a target that is no path");
            return Err(self.refusal(StatusCode::BAD_REQUEST, "target_invalid", detail));
        }
        Ok(())
    }

    /// The destination of the connection is what the request is for.
    fn authority(&self) -> Result<(), Box<Refusal>> {
        let route = &self.connection.route;
        let (scheme, default_port) = if route.tls() == TlsMode::None { ("http", 80) } else { ("https", 443) };
        let named = self.named().map_err(|problem| {
            let detail = format!("request to {}: {problem}", route.to);
            self.refusal(StatusCode::BAD_REQUEST, "authority_invalid", detail)
        })?;
        let (to, port) = (&named.0, named.1.unwrap_or(default_port));
        let own_scheme = self.request.uri().scheme_str().is_none_or(|own| own.eq_ignore_ascii_case(scheme));
        if *to != route.to || port != route.port || !own_scheme {
            let scheme = if own_scheme { "" } else { " under another scheme" };
            let (named, own) = (shown(&named), shown(&(route.to.clone(), Some(route.port))));
            let detail = format!("request for {named}{scheme} on the connection to {own}");
            return Err(self.refusal(StatusCode::MISDIRECTED_REQUEST, "authority_mismatch", detail));
        }
        Ok(())
    }

    /// What the request says it is for: `Host`, and the authority of its target where there is one.
    fn named(&self) -> Result<(Destination, Option<u16>), String> {
        let parse =
            |bytes: &[u8]| Destination::parse_authority(bytes).map_err(|error: AuthorityError| error.to_string());
        let mut hosts = self.request.headers().get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (None, _) => None,
            (Some(host), None) => Some(parse(host.as_bytes())?),
            (Some(_), Some(_)) => return Err("more than one Host header".into()),
        };
        let target =
            self.request.uri().authority().map(|authority| parse(authority.as_str().as_bytes())).transpose()?;
        match (host, target) {
            (Some(host), Some(target)) if host != target => {
                Err(format!("the target names {} and the Host header {}", shown(&target), shown(&host)))
            }
            (Some(named), _) | (None, Some(named)) => Ok(named),
            (None, None) => Err("no Host header".into()),
        }
    }

    fn rule(&self) -> Result<Arc<Rule>, Box<Refusal>> {
        let (method, path) = (self.request.method().as_str(), self.request.uri().path());
        let decided = self.connection.route.request(method, path);
        let Permit { rule, observed } = decided.map_err(|denied| self.denied(&denied))?;
        self.observe(observed.as_ref());
        Ok(rule)
    }

    /// Writes down what would have been refused, and goes on.
    fn observe(&self, would_be: Option<&Denied>) {
        if let Some(denied) = would_be {
            self.connection.observe(denied, self.attempt());
        }
    }

    /// Where methods are judged, no other one is smuggled in beside the one that was judged.
    fn method_is_what_it_says(&self) -> Result<(), Box<Refusal>> {
        if !self.connection.route.limits_methods() {
            return Ok(());
        }
        let header = METHOD_OVERRIDES.iter().find(|name| self.request.headers().contains_key(*name));
        let mut parameters = self.request.uri().query().unwrap_or_default().split(['&', ';']);
        let parameter = parameters.any(|pair| pair.split('=').next().is_some_and(is_method_parameter));
        let Some(by) = header.map(HeaderName::as_str).or(parameter.then_some("_method")) else { return Ok(()) };
        let detail = format!("request to {} with another method in `{by}`", self.connection.route.to);
        Err(self.refusal(StatusCode::FORBIDDEN, "method_override", detail))
    }

    fn upgrade(&self, rule: &Rule) -> Result<(), Box<Refusal>> {
        if tunnel::asked(self.request.headers()).is_some() {
            let observed = self.connection.route.upgrade(rule).map_err(|denied| self.denied(&denied))?;
            self.observe(observed.as_ref());
        }
        Ok(())
    }

    /// TRACE answers with the request (RFC 9110, section 9.3.8), and what was put into it on its way.
    fn echo(&self, rule: &Rule) -> Result<(), Box<Refusal>> {
        if self.request.method() != Method::TRACE || rule.inject_header.is_empty() {
            return Ok(());
        }
        let detail = format!("TRACE to {}, which would show an injected header", self.connection.route.to);
        Err(self.refusal(StatusCode::FORBIDDEN, "trace_of_injected", detail))
    }

    fn place(&self, rule: &Rule) -> Result<Place, Box<Refusal>> {
        self.connection.context.egress.limits.enter(rule).map_err(|denied| self.denied(&denied))
    }

    fn size(&self, rule: &Rule) -> Result<(), Box<Refusal>> {
        let declared = self.request.body().size_hint().lower();
        let Some(limit) = rule.max_request_bytes.filter(|limit| declared > *limit) else { return Ok(()) };
        let to = &self.connection.route.to;
        let detail = format!("request body of {declared} bytes to {to}; the rule allows {limit}");
        let (status, reason) = (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large");
        Err(Box::new(Refusal::of_traffic(status, reason, detail, rule.id.clone(), self.attempt())))
    }
}

/// What a request says it is for, as people write it.
fn shown((to, port): &(Destination, Option<u16>)) -> String {
    port.map_or_else(|| to.to_string(), |port| format!("{}:{port}", to.authority()))
}

/// `_method`, in every spelling that a form decoder reads so.
fn is_method_parameter(name: &str) -> bool {
    let mut rest = name.as_bytes();
    for expected in b"_method" {
        let (byte, length) = match rest {
            [b'%', high, low, ..] => (hex(*high, *low), 3),
            [byte, ..] => (Some(*byte), 1),
            [] => return false,
        };
        if !byte.is_some_and(|byte| byte.eq_ignore_ascii_case(expected)) {
            return false;
        }
        rest = &rest[length..];
    }
    // Some readers make a list of `_method[]`.
    rest.is_empty() || rest[0] == b'[' || rest.starts_with(b"%5b") || rest.starts_with(b"%5B")
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_in_the_query_is_seen_in_every_spelling() {
        for name in ["_method", "_METHOD", "%5fmethod", "_m%65thod", "%5F%4dethod", "_method[]", "_method%5B%5D"] {
            assert!(is_method_parameter(name), "{name}");
        }
        for name in ["", "method", "_method2", "_metho", "x_method", "_metho%", "%5", "_metho%zz"] {
            assert!(!is_method_parameter(name), "{name}");
        }
    }
}
