//! The API inside TLS, and the command line's client with it.
use bytes::Bytes;
use dshield_verify::ratls::evidence_of;
use http::{Method, StatusCode};

use super::*;
use dshield_verify::client::{Client, ClientError, Leaf, SpkiSha256};

async fn api() -> (Api, Arc<RatlsCertificate>) {
    let certificate = Arc::new(RatlsCertificate::generate([]).unwrap());
    (Api::start_with(log(), vec![], Some(certificate.clone())).await, certificate)
}

/// What is there, and the certificate of the connection that it came by.
async fn healthz(url: &str, key: Option<SpkiSha256>) -> Result<Option<Leaf>, ClientError> {
    let client = Client::new(url, key)?;
    let response = client.send(Method::GET, "/healthz", Bytes::new()).await?;
    assert_eq!(response.status(), StatusCode::OK);
    let leaf = response.extensions().get::<Leaf>().cloned();
    assert_eq!(client.body(response).await?, "ok\n");
    Ok(leaf)
}

#[tokio::test]
async fn a_response_brings_the_certificate_of_its_own_connection() {
    let (api, certificate) = api().await;
    let url = format!("https://{}", api.address);
    let leaf = async || healthz(&url, None).await.unwrap().unwrap();
    let first = leaf().await;
    assert_eq!(evidence_of(&first.0), Ok(None));
    certificate.set_evidence(b"{}").unwrap();
    let second = leaf().await;
    assert_eq!(evidence_of(&second.0), Ok(Some(b"{}".to_vec())));
    assert_eq!(second, leaf().await);
}

#[tokio::test]
async fn a_client_that_is_given_a_key_talks_to_who_has_it_and_to_nobody_else() {
    let (api, certificate) = api().await;
    let (_, other) = self::api().await;
    let key = |certificate: &RatlsCertificate| certificate.spki_sha256().parse().ok();
    for url in [format!("https://{}", api.address), api.address.to_string()] {
        assert!(healthz(&url, key(&certificate)).await.unwrap().is_some());
        let refused = healthz(&url, key(&other)).await.unwrap_err();
        assert!(matches!(refused, ClientError::OtherKey { .. }), "{refused}");
        let said = refused.to_string();
        assert!(said.contains(certificate.spki_sha256()) && said.contains("dshield-verify"), "{said}");
    }
}

/// Twice, since the client remembers what it found.
#[tokio::test]
async fn without_a_scheme_a_client_finds_out_what_is_spoken_and_with_one_it_keeps_to_it() {
    let plain = Api::start(log(), vec![]).await;
    let (secure, _) = api().await;
    for (api, tls) in [(&plain, false), (&secure, true)] {
        let client = Client::new(&api.address.to_string(), None).unwrap();
        for _ in 0..2 {
            let response = client.send(Method::GET, "/healthz", Bytes::new()).await.unwrap();
            assert_eq!((response.status(), response.extensions().get::<Leaf>().is_some()), (StatusCode::OK, tls));
        }
    }
    let refused = healthz(&format!("https://{}", plain.address), None).await.unwrap_err();
    assert!(matches!(refused, ClientError::NotTls(_)) && refused.to_string().contains("use http://"), "{refused}");
    let refused = healthz(&format!("http://{}", secure.address), None).await.unwrap_err();
    assert!(matches!(refused, ClientError::OnlyTls(_)) && refused.to_string().contains("use https://"), "{refused}");
    // Named a key, it does not fall back either.
    let refused = healthz(&plain.address.to_string(), Some("00".repeat(32).parse().unwrap())).await.unwrap_err();
    assert!(matches!(refused, ClientError::NotTls(_)), "{refused}");
}
