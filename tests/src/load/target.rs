//! Where load goes, and how a connection there is made.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{self, Error};

/// Where to, and whom to trust.
#[derive(Clone, Debug)]
pub struct Target {
    /// The name in SNI and `Host`.
    pub host: String,
    /// Where to connect to; resolved from `host` when absent.
    pub address: Option<SocketAddr>,
    /// The port, when `address` is absent.
    pub port: u16,
    /// The authority to ask an HTTP proxy at `address` for (RFC 9110, section 9.3.6).
    pub tunnel: Option<String>,
    /// The certificates to trust, PEM.
    pub bundle: PathBuf,
}

/// A target whose name is resolved, once: what is measured are connections, not look-ups.
#[derive(Clone)]
pub struct Dialler {
    /// The name in SNI and `Host`.
    pub host: String,
    address: SocketAddr,
    name: ServerName<'static>,
    tunnel: Option<String>,
    tls: TlsConnector,
}

impl Target {
    /// Resolves the name and reads the bundle.
    ///
    /// # Errors
    /// The name cannot be resolved or is none, or the bundle cannot be read.
    pub async fn dialler(self) -> Result<Dialler, Error> {
        let address = match self.address {
            Some(address) => address,
            None => {
                let mut found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
                found.next().ok_or_else(|| format!("{} has no address", self.host))?
            }
        };
        let mut config = rustls::ClientConfig::clone(client::connector(&self.bundle)?.config());
        // Each connection is a new one: whether a peer offers tickets shall not matter.
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(self.host.clone())?;
        Ok(Dialler { host: self.host, address, name, tunnel: self.tunnel, tls: Arc::new(config).into() })
    }
}

impl Dialler {
    /// A new connection, its handshake done.
    ///
    /// # Errors
    /// Nothing listens there, the proxy refuses the tunnel, or the server does not prove its name.
    pub async fn open(&self) -> Result<TlsStream<TcpStream>, Error> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        if let Some(authority) = &self.tunnel {
            tunnel(&mut stream, authority).await?;
        }
        Ok(self.tls.connect(self.name.clone(), stream).await?)
    }

    /// A new connection that requests can be sent over; it ends with the value.
    ///
    /// # Errors
    /// See [`Dialler::open`].
    pub async fn sender<B>(&self) -> Result<SendRequest<B>, Error>
    where
        B: Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(self.open().await?)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

async fn tunnel(stream: &mut TcpStream, authority: &str) -> Result<(), Error> {
    const END: &[u8] = b"\r\n\r\n";
    stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    // The server says nothing before the client's hello: all that comes is the proxy's answer.
    while !head.ends_with(END) {
        if stream.read_buf(&mut head).await? == 0 {
            return Err("the proxy closed the connection".into());
        }
    }
    let line = String::from_utf8_lossy(&head);
    if line.starts_with("HTTP/1.1 200") || line.starts_with("HTTP/1.0 200") {
        Ok(())
    } else {
        Err(format!("the proxy refused the tunnel: {}", line.lines().next().unwrap_or_default()).into())
    }
}
