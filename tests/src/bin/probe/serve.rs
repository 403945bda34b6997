//! The probe behind plain HTTP: what an invocation costs without D-Shield. Prints its port.
use bytes::Bytes;
use dshield_tests::client::Error;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Serves until it is killed.
pub async fn serve() -> Result<(), Error> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(invoke)));
    }
}

async fn invoke(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Error> {
    let event = request.into_body().collect().await?.to_bytes();
    let (_, answer) = crate::act(&serde_json::from_slice(&event)?).await;
    Ok(Response::new(Full::from(answer.to_string())))
}
