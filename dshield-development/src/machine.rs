//! The machine: its certificates made once, then quotes and collateral as often as they are asked for.
use dshield_common::attestation::Collateral;
use dshield_common::hex;

use crate::collateral::{qe_identity, tcb_info};
use crate::pki::Pki;
use crate::platform::Platform;
use crate::quote::{TdReport, quote};

/// Clocks differ: collateral counts from this long before it is made, in seconds.
const SLACK: u64 = 60 * 60;

/// A TDX machine that is not one.
#[derive(Clone, Debug)]
pub struct Machine {
    pki: Pki,
    platform: Platform,
    /// PEM: the PCK certificate, the CA of platforms, the root.
    pck_chain: String,
    /// PEM: the CA of platforms, the root.
    platform_ca_chain: String,
    /// PEM: who signs TCB information, the root.
    tcb_signing_chain: String,
}

impl Machine {
    /// A machine like `platform`, under the root of `pki`. Machines of the same PKI share their keys, so the collateral of
    /// one is about the quotes of another.
    #[must_use]
    pub fn new(pki: Pki, platform: Platform) -> Self {
        let certificates = pki.issue(&platform);
        let platform_ca_chain = certificates.platform_ca.pem() + &pki.root_pem();
        Self {
            pck_chain: certificates.pck.pem() + &platform_ca_chain,
            platform_ca_chain,
            tcb_signing_chain: certificates.tcb_signing.pem() + &pki.root_pem(),
            pki,
            platform,
        }
    }

    /// A quote (TDX, version 4) over `report`.
    #[must_use]
    pub fn quote(&self, report: &TdReport) -> Vec<u8> {
        quote(report, &self.pki.attestation, &self.pki.pck, &self.pck_chain)
    }

    /// The collateral to its quotes, made `now` (seconds since 1970): valid from an hour before, for the
    /// [`lifetimes`](Platform::lifetimes) of the platform.
    #[must_use]
    pub fn collateral(&self, now: u64) -> Collateral {
        let Platform { lifetimes, revoked, .. } = &self.platform;
        let issued = now.saturating_sub(SLACK);
        let end = |lifetime: u64| now.saturating_add(lifetime);
        let tcb_info = tcb_info(&self.platform, issued, end(lifetimes.tcb_info));
        let qe_identity = qe_identity(&self.platform, issued, end(lifetimes.qe_identity));
        let sign = |text: &str| hex::encode(&self.pki.tcb_signing.sign_raw(text.as_bytes()));
        Collateral {
            pck_crl_issuer_chain: self.platform_ca_chain.clone(),
            root_ca_crl: hex::encode(&self.pki.root_crl(issued..end(lifetimes.root_crl), revoked)),
            pck_crl: hex::encode(&self.pki.pck_crl(issued..end(lifetimes.pck_crl), revoked)),
            tcb_info_issuer_chain: self.tcb_signing_chain.clone(),
            tcb_info_signature: sign(&tcb_info),
            tcb_info,
            qe_identity_issuer_chain: self.tcb_signing_chain.clone(),
            qe_identity_signature: sign(&qe_identity),
            qe_identity,
            pck_certificate_chain: None,
        }
    }

    /// The keys, and the root to trust.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }
}
