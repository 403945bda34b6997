//! placeholder
use dshield_common::attestation::Collateral;
pub(super) async fn fetch(_pccs: &str, _quote: &str) -> Result<Collateral, String> {
    Err(String::new())
}
