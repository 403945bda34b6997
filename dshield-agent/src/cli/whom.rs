//! Whom a command talks to: the options that all those have in common that talk to an agent.
use dshield_verify::client::{Client, ClientError, DEFAULT_URL, SpkiSha256};

/// A running agent.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    /// Where the agent listens: https://HOST:PORT or http://HOST:PORT; or HOST:PORT of this machine, for whichever of the
    /// two it speaks there
    #[arg(long, env = "DSHIELD_URL", default_value = DEFAULT_URL)]
    pub url: String,
    /// Whom to take for it.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Whose certificate is taken.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TlsArgs {
    /// The only TLS key to talk to: SHA-256 of its SubjectPublicKeyInfo in hex, as the attested statement has it
    /// (tls_spki_sha256). Without it a name must prove itself as web sites do, and on 127.0.0.1, ::1 and localhost any
    /// certificate is taken, for that is this machine, unless a tunnel begins there
    #[arg(long, env = "DSHIELD_TLS_SPKI", value_name = "HEX")]
    pub tls_spki: Option<SpkiSha256>,
}

impl AgentArgs {
    /// The client for it.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn client(&self) -> Result<Client, ClientError> {
        Client::new(&self.url, self.tls.tls_spki)
    }
}
