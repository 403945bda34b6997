//! Quotes made here, byte by byte and with a key of our own, and one that swtpm 0.7.1 made for an agent.
#![allow(clippy::unwrap_used)]
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer;
use p256::pkcs8::EncodePublicKey;
use proptest::prelude::*;

use super::*;

mod verdicts;

/// A statement's text; only its hash matters here.
const STATEMENT: &str = "{}";

/// What is put into a quote; each test changes what it is about.
#[derive(Clone)]
struct Made {
    magic: u32,
    kind: u16,
    extra_data: Vec<u8>,
    safe: u8,
    banks: Vec<(u16, Vec<u8>)>,
    pcr_digest: Vec<u8>,
    tail: Vec<u8>,
    boots: Option<u64>,
    extended: Vec<[u8; 32]>,
    pcrs: BTreeMap<u8, [u8; 32]>,
}

impl Made {
    /// A good one, over PCRs 0 and 13.
    fn new() -> Self {
        let extended = vec![boots_digest(7), [1; 32], [2; 32]];
        let pcrs = BTreeMap::from([(0, [9; 32]), (AGENT_PCR, super::extended(&extended))]);
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            extra_data: qualifying_data(&ReportData::of(STATEMENT)).to_vec(),
            safe: 1,
            banks: vec![(0x000b, vec![0b0000_0001, 0b0010_0000, 0])],
            pcr_digest: digest(&pcrs),
            tail: Vec::new(),
            boots: Some(7),
            extended,
            pcrs,
        }
    }

    /// With this value of the agent's PCR, quoted.
    fn with_value(mut self, value: [u8; 32]) -> Self {
        self.pcrs.insert(AGENT_PCR, value);
        self.pcr_digest = digest(&self.pcrs);
        self
    }

    fn attest(&self) -> Vec<u8> {
        let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
        let mut out = self.magic.to_be_bytes().to_vec();
        out.extend(self.kind.to_be_bytes());
        out.extend(sized(&[0x0b; 34]));
        out.extend(sized(&self.extra_data));
        out.extend(123_456_u64.to_be_bytes());
        out.extend(5_u32.to_be_bytes());
        out.extend(6_u32.to_be_bytes());
        out.push(self.safe);
        out.extend(0x0102_0304_0506_0708_u64.to_be_bytes());
        out.extend(u32::try_from(self.banks.len()).unwrap().to_be_bytes());
        for (bank, bits) in &self.banks {
            out.extend(bank.to_be_bytes());
            out.push(u8::try_from(bits.len()).unwrap());
            out.extend(bits);
        }
        out.extend(sized(&self.pcr_digest));
        out.extend(&self.tail);
        out
    }

    fn quote(&self) -> TpmQuote {
        let mut quote = signed(&self.attest());
        quote.pcrs = self.pcrs.iter().map(|(pcr, value)| (*pcr, to_hex(value))).collect();
        quote.extended = self.extended.iter().map(|each| to_hex(each)).collect();
        quote.boots = self.boots;
        quote
    }

    fn verify(&self) -> Result<TpmClaims, TpmFault> {
        verify(&self.quote(), &ReportData::of(STATEMENT))
    }
}

fn digest(pcrs: &BTreeMap<u8, [u8; 32]>) -> Vec<u8> {
    pcrs.values().fold(Sha256::new(), Sha256::chain_update).finalize().to_vec()
}

fn key() -> SigningKey {
    SigningKey::from_slice(&[3; 32]).unwrap()
}

/// These bytes as a quote of [`key`], without PCRs.
fn signed(attest: &[u8]) -> TpmQuote {
    let signature: Signature = key().sign(attest);
    TpmQuote {
        attest: to_hex(attest),
        signature: to_hex(&signature.to_bytes()),
        ak_spki: to_hex(key().verifying_key().to_public_key_der().unwrap().as_bytes()),
        pcrs: BTreeMap::new(),
        extended: Vec::new(),
        boots: None,
    }
}

fn to_hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

#[test]
fn a_quote_holds_and_its_claims_are_what_was_signed() {
    let made = Made::new();
    let claims = made.verify().unwrap();
    let spki = key().verifying_key().to_public_key_der().unwrap();
    assert_eq!(claims.ak_sha256, Sha256Digest::of(spki.as_bytes()));
    assert_eq!(claims.pcrs, made.pcrs);
    assert_eq!((claims.reset_count, claims.restart_count), (5, 6));
    assert_eq!(claims.firmware_version, 0x0102_0304_0506_0708);
    assert_eq!(claims.measured, [[1; 32], [2; 32]]);
    assert_eq!(claims.boots, Some(7));
    assert!(claims.explained);
}

#[test]
fn a_quote_that_a_tpm_made_holds() {
    let quote: TpmQuote = serde_json::from_str(include_str!("swtpm.json")).unwrap();
    let claims = verify(&quote, &ReportData::of("a statement")).unwrap();
    assert_eq!((claims.reset_count, claims.restart_count), (1, 0));
    assert_eq!(claims.firmware_version, 0x2019_1023_0016_3636);
    assert_eq!(claims.pcrs.len(), 15);
    assert_eq!(claims.measured, [[1; 32], [2; 32], [3; 32]]);
    assert_eq!((claims.boots, claims.explained), (Some(1), true));
    assert_eq!(verify(&quote, &ReportData::of("another")), Err(TpmFault::OtherReportData));
}

#[test]
fn a_quote_over_other_report_data_is_refused() {
    let other = verify(&Made::new().quote(), &ReportData::of("{ }"));
    assert_eq!(other, Err(TpmFault::OtherReportData));
    let prefix = Made { extra_data: Made::new().extra_data[..31].to_vec(), ..Made::new() };
    assert_eq!(prefix.verify(), Err(TpmFault::OtherReportData));
}

#[test]
fn a_quote_that_was_changed_or_is_of_another_key_is_refused() {
    let good = Made::new().quote();
    let report_data = ReportData::of(STATEMENT);
    for byte in 0..good.attest.len() / 2 {
        let mut attest = hex::decode(&good.attest).unwrap();
        attest[byte] ^= 1;
        let quote = TpmQuote { attest: to_hex(&attest), ..good.clone() };
        assert_eq!(verify(&quote, &report_data), Err(TpmFault::Signature), "byte {byte}");
    }
    let other = SigningKey::from_slice(&[4; 32]).unwrap();
    let ak_spki = to_hex(other.verifying_key().to_public_key_der().unwrap().as_bytes());
    assert_eq!(verify(&TpmQuote { ak_spki, ..good.clone() }, &report_data), Err(TpmFault::Signature));
    let signature = "00".repeat(64);
    assert_eq!(verify(&TpmQuote { signature, ..good }, &report_data), Err(TpmFault::Signature));
}

#[test]
fn signed_bytes_that_are_no_quote_over_sha256_pcrs_are_refused() {
    let good = Made::new();
    let agents = vec![1, 0x20, 0];
    for (bad, why) in [
        (Made { magic: 0xff54_4348, ..good.clone() }, AttestError::Magic(0xff54_4348)),
        (Made { kind: 0x8017, ..good.clone() }, AttestError::Kind(0x8017)),
        (Made { safe: 2, ..good.clone() }, AttestError::Value("safe")),
        (Made { banks: vec![(0x0004, agents.clone())], ..good.clone() }, AttestError::Bank),
        (Made { banks: vec![(0x000b, agents.clone()), (0x0004, agents)], ..good.clone() }, AttestError::Bank),
        (Made { banks: vec![(0x000b, vec![])], ..good.clone() }, AttestError::Value("pcrSelect")),
        (Made { banks: vec![(0x000b, vec![1; 5])], ..good.clone() }, AttestError::Value("pcrSelect")),
        (Made { pcr_digest: vec![0; 31], ..good.clone() }, AttestError::Value("pcrDigest")),
        (Made { pcr_digest: vec![0; 33], ..good.clone() }, AttestError::Value("pcrDigest")),
        (Made { extra_data: vec![0; 67], ..good.clone() }, AttestError::Value("extraData")),
        (Made { tail: vec![0], ..good }, AttestError::Long(1)),
    ] {
        assert_eq!(bad.verify(), Err(TpmFault::Attest(why)));
    }
}

#[test]
fn values_of_pcrs_that_were_not_quoted_are_refused() {
    let good = Made::new();
    let mut changed = good.quote();
    changed.pcrs.insert(0, "00".repeat(32));
    let report_data = ReportData::of(STATEMENT);
    assert_eq!(verify(&changed, &report_data), Err(TpmFault::PcrValues));

    let mut more = good.quote();
    more.pcrs.insert(4, "00".repeat(32));
    let selection = TpmFault::Selection { quoted: vec![0, 13], given: vec![0, 4, 13] };
    assert_eq!(verify(&more, &report_data), Err(selection));

    let pcrs = BTreeMap::from([(0, [9; 32])]);
    let without = Made { banks: vec![(0x000b, vec![1, 0, 0])], pcr_digest: digest(&pcrs), pcrs, ..good };
    assert_eq!(without.verify(), Err(TpmFault::NoAgentPcr));
}

#[test]
fn a_pcr_that_others_extended_is_not_explained() {
    let good = Made::new();
    assert!(good.verify().unwrap().explained);
    let earlier = [[5; 32], boots_digest(7), [1; 32], [2; 32]];
    let later = [boots_digest(7), [1; 32], [2; 32], [5; 32]];
    let swapped = [boots_digest(7), [2; 32], [1; 32]];
    for digests in [earlier.as_slice(), &later, &swapped, &[]] {
        let claims = good.clone().with_value(extended(digests)).verify().unwrap();
        assert!(!claims.explained);
        assert_eq!(claims.measured, [[1; 32], [2; 32]]);
    }
}

#[test]
fn a_number_of_boots_that_was_changed_is_refused() {
    assert_eq!(Made { boots: Some(8), ..Made::new() }.verify(), Err(TpmFault::Boots));
    assert_eq!(Made { extended: Vec::new(), ..Made::new() }.verify(), Err(TpmFault::Boots));

    let extended = vec![[1; 32]];
    let value = super::extended(&extended);
    let claims = Made { boots: None, extended, ..Made::new() }.with_value(value).verify().unwrap();
    assert_eq!((claims.boots, claims.explained), (None, true));
    assert_eq!(claims.measured, [[1; 32]]);
}

#[test]
fn members_are_lower_case_hexadecimal_of_their_length() {
    let report_data = ReportData::of(STATEMENT);
    let good = Made::new().quote();
    let bad = |change: fn(&mut TpmQuote)| {
        let mut quote = good.clone();
        change(&mut quote);
        verify(&quote, &report_data)
    };
    assert_eq!(bad(|quote| quote.attest.make_ascii_uppercase()), Err(TpmFault::Hex("attest")));
    assert_eq!(bad(|quote| quote.attest.push('0')), Err(TpmFault::Hex("attest")));
    assert_eq!(bad(|quote| quote.signature.push_str("00")), Err(TpmFault::Hex("signature")));
    assert_eq!(bad(|quote| quote.ak_spki.push('x')), Err(TpmFault::Hex("ak_spki")));
    assert_eq!(bad(|quote| quote.ak_spki.push_str("00")), Err(TpmFault::Key));
    assert_eq!(bad(|quote| quote.extended[1].truncate(62)), Err(TpmFault::Hex("extended")));
    assert_eq!(bad(|quote| quote.pcrs.get_mut(&0).unwrap().truncate(62)), Err(TpmFault::Hex("pcrs")));
}

#[test]
fn every_truncated_quote_is_an_error() {
    let made = Made::new();
    let whole = made.attest();
    for length in 0..whole.len() {
        let TpmQuote { attest, signature, .. } = signed(&whole[..length]);
        let quote = TpmQuote { attest, signature, ..made.quote() };
        let fault = verify(&quote, &ReportData::of(STATEMENT)).unwrap_err();
        assert!(matches!(fault, TpmFault::Attest(AttestError::Short(_))), "{length}: {fault}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Attest::parse(&bytes);
    }

    #[test]
    fn no_change_to_a_quote_makes_the_reader_panic_or_read_past_it(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = Made::new().attest();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Ok(attest) = Attest::parse(&bytes) {
            // Whatever its lengths say now, together they are those of the bytes.
            let fixed = 4 + 2 + 2 + 2 + 8 + 4 + 4 + 1 + 8 + 4 + 2 + 1 + 2 + 32;
            prop_assert!(bytes.len() >= fixed + attest.extra_data.len());
            prop_assert!(attest.pcrs.is_sorted());
        }
    }

    #[test]
    fn no_text_makes_verification_panic(
        attest in "[0-9a-f]{0,300}|\\PC{0,40}",
        signature in "[0-9a-f]{128}|\\PC{0,40}",
        spki in "[0-9a-f]{0,200}|\\PC{0,40}",
        extended in proptest::collection::vec("[0-9a-f]{64}|\\PC{0,8}", 0..4),
        boots in any::<Option<u64>>(),
    ) {
        let good = Made::new().quote();
        let report_data = ReportData::of(STATEMENT);
        for quote in [
            TpmQuote { attest, ..good.clone() },
            TpmQuote { signature, ..good.clone() },
            TpmQuote { ak_spki: spki, ..good.clone() },
            TpmQuote { extended, boots, ..good },
        ] {
            let _ = verify(&quote, &report_data);
        }
    }
}
