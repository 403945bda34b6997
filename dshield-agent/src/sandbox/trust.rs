//! The trust bundle that functions get: the system's, with the inspection CA merged in.
use std::fs;
use std::path::Path;

/// Where programs look for the bundle inside an instance: Debian, Fedora, Alpine, SUSE.
pub const BUNDLE_PATHS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// The environment variables by which programs with a store of their own are told.
pub const VARIABLES: [&str; 5] =
    ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"];

/// The bundle's text: the inspection CA first, then what the machine trusts, which a function needs for
/// `passthrough` rules only.
#[must_use]
pub fn bundle(inspection_ca_pem: &str) -> String {
    let system = BUNDLE_PATHS.iter().find_map(|path| fs::read_to_string(Path::new(path)).ok());
    format!("{}\n{}", inspection_ca_pem.trim_end(), system.unwrap_or_default())
}

/// The variables with their value.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    VARIABLES.iter().map(|name| ((*name).to_owned(), BUNDLE_PATHS[0].to_owned())).collect()
}
