//! Somebody between a verifier and an agent: passes on what is asked and answered, shows a TLS key of their own, and gives
//! evidence of their choice.
//!
//! Requests flow in; they flow on to the agent, but for those whose answer a test has chosen.
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::agent::Agent;
use crate::background::Background;
use crate::client;
use crate::standin::tls::Issued;
use crate::wait;

/// Chooses the answer to a path and query, given the agent's own: text and status.
type Choose = Arc<Mutex<Box<dyn Fn(&str, u16, String) -> (u16, String) + Send>>>;

/// A running relay; it stops when dropped.
pub struct Relay {
    address: SocketAddr,
    tls: bool,
    choose: Choose,
    _server: Background,
}

impl Relay {
    /// In front of this agent, with a TLS key of its own or in the clear. Passes everything on as it is.
    #[must_use]
    pub fn before(agent: &Agent, tls: bool) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let address = listener.local_addr().expect("it is bound");
        let choose: Choose = Arc::new(Mutex::new(Box::new(|_, status, text| (status, text))));
        let acceptor =
            tls.then(|| TlsAcceptor::from(Issued::authority(|_| ()).leaf(&["127.0.0.1"], |_| ()).server(&[])));
        let (chosen, agent) = (Arc::clone(&choose), (agent.address(), agent.url().starts_with("https")));
        let server = Background::spawn("relay", move || async move {
            let listener = TcpListener::from_std(listener).expect("a socket of this process");
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, chosen) = (acceptor.clone(), Arc::clone(&chosen));
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, agent, chosen).await,
                        Some(acceptor) => {
                            // A client that takes no stranger's key is a test's to notice.
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, agent, chosen).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, tls, choose, _server: server }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// From now on, `choose` has each answer: it is given path and query, and what the agent said.
    pub fn answer_by(&self, choose: impl Fn(&str, u16, String) -> (u16, String) + Send + 'static) {
        *self.choose.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(choose);
    }

    /// From now on, whoever asks for evidence gets this.
    pub fn give_evidence(&self, evidence: &str) {
        let evidence = evidence.to_owned();
        self.answer_by(
            move |path, status, text| {
                if path.starts_with("/v1/attestation") { (200, evidence.clone()) } else { (status, text) }
            },
        );
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, agent: (SocketAddr, bool), choose: Choose) {
    let service = service_fn(|request| pass_on(request, agent, Arc::clone(&choose)));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn pass_on(
    request: Request<Incoming>,
    (address, tls): (SocketAddr, bool),
    choose: Choose,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let asked = path.clone();
    let asking = tokio::task::spawn_blocking(move || {
        let patience = wait::scaled(wait::PATIENCE);
        match tls {
            true => client::request_tls(address, "GET", &asked, "", patience).map(|(answer, _)| answer),
            false => client::request(address, "GET", &asked, "", patience),
        }
    });
    let (status, text) = match asking.await {
        Ok(Ok(answer)) => (answer.status, answer.text()),
        Ok(Err(error)) => (502, error.to_string()),
        Err(error) => (502, error.to_string()),
    };
    let (status, text) = choose.lock().unwrap_or_else(PoisonError::into_inner)(&path, status, text);
    let answer = Response::builder().status(status).body(Full::new(Bytes::from(text)));
    Ok(answer.unwrap_or_else(|error| panic!("{error}")))
}
