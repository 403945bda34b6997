//! Parameters of a query: those that a path knows, each with one meaning.
use std::collections::BTreeMap;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;

use super::error::ApiError;

pub(super) type Parameters = BTreeMap<String, String>;

/// The query, when it has no other parameters than these: a typing error must not read as "everything".
pub(super) fn known(query: Result<Query<Parameters>, QueryRejection>, names: &[&str]) -> Result<Parameters, ApiError> {
    let Ok(Query(parameters)) = query else {
        return Err(invalid("the query", "is not of the form name=value&name=value"));
    };
    match parameters.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) if names.is_empty() => Err(invalid(name, "is not a parameter of this path, which has none")),
        Some(name) => {
            let problem = format!("is not a parameter of this path; those are: {}", names.join(", "));
            Err(ApiError::InvalidParameter { parameter: name.clone(), problem })
        }
        None => Ok(parameters),
    }
}

/// A number of an entry, or of entries.
pub(super) fn number(parameters: &Parameters, name: &str) -> Result<Option<u64>, ApiError> {
    let parsed = parameters.get(name).map(|value| value.parse());
    parsed.transpose().map_err(|_| invalid(name, "must be a whole number, 0 or more, below 2^64"))
}

pub(super) fn invalid(parameter: &str, problem: &str) -> ApiError {
    ApiError::InvalidParameter { parameter: parameter.to_owned(), problem: problem.to_owned() }
}
