//! Collateral from a PCCS, for evidence that came without: nobody has to believe it, for it is signed.
use dshield_common::attestation::Collateral;
use dshield_common::hex;
use http::Method;

use crate::client::{Client, ClientError};
use crate::collateral::{Answer, CollateralError, MOST_BODY, Requests};

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum FetchError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Collateral(#[from] CollateralError),
    #[error("the quote is not hexadecimal")]
    Quote,
    #[error("an answer is longer than {MOST_BODY} bytes")]
    TooLong,
}

/// What the PCCS at `url` says about the platform that made `quote` (hexadecimal).
pub(super) async fn fetch(url: &str, quote: &str) -> Result<Collateral, FetchError> {
    let client = Client::of_the_web(url)?;
    let mut requests = Requests::for_quote(&hex::decode(quote).ok_or(FetchError::Quote)?)?;
    while let Some(request) = requests.next_request() {
        let response = client.send(Method::GET, &request.path, bytes::Bytes::new()).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = client.body_of_at_most(response, MOST_BODY).await?.ok_or(FetchError::TooLong)?;
        requests
            .answer(request.part, &Answer { status, header: &|name| headers.get(name)?.to_str().ok(), body: &body })?;
    }
    Ok(requests.finish()?)
}
