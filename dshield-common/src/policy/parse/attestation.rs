//! `[attestation]`: who is asked for collateral.
use super::ReadCa;
use super::own::{Place, Proof};
use super::read::{Fields, Spanned};
use crate::policy::attestation::{AttestationPolicy, Pccs};
use crate::policy::diagnostic::Findings;

const FIELDS: &[&str] = &["pccs", "resolve", "ca", "pin_spki"];
const EXAMPLE: &str = "\"https://pccs.example.com\"";
/// What URLs of such services are often written with, although it is in every path.
const API: [&str; 2] = ["/sgx/certification/v4", "/tdx/certification/v4"];

/// The table; without it, nobody is asked. Whatever is wrong is reported.
pub(super) fn attestation(
    top: &Fields<'_>,
    read_ca: &mut ReadCa<'_>,
    findings: &mut Findings<'_>,
) -> AttestationPolicy {
    let Some(table) = top.table("attestation", "[attestation]", FIELDS, findings) else {
        return AttestationPolicy::default();
    };
    let url = table.string("pccs", EXAMPLE, findings);
    let place = url.as_ref().and_then(|url| Place::parse(url.value)).map(without_api);
    let proof = Proof::read(&table, place.as_ref(), read_ca, findings);
    let Some(Spanned { value, at }) = url else {
        if let Some(name) = Proof::FIELDS.into_iter().find(|name| table.has(name) && !table.has("pccs")) {
            let message = format!("`{name}` has no effect without `pccs`");
            findings.add_with_hint(&table.at_key(name), message, format!("add pccs = {EXAMPLE}"));
        }
        return AttestationPolicy::default();
    };
    let pccs = place.and_then(|place| {
        let rule = place.rule("attestation.pccs".to_owned(), "GET", &Pccs::PATHS, proof)?;
        let Place { to, port, prefix, .. } = place;
        Some(Pccs { to, port, prefix, rule })
    });
    if pccs.is_none() {
        let message = format!("{value:?} is not the address of a PCCS");
        findings.add_with_hint(&at, message, format!("write it like {EXAMPLE}"));
    }
    AttestationPolicy { pccs }
}

fn without_api(mut place: Place) -> Place {
    for api in API {
        if let Some(before) = place.prefix.strip_suffix(api) {
            place.prefix.truncate(before.trim_end_matches('/').len());
        }
    }
    place
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::destination::Destination;
    use crate::policy::parse::tests::{parse, problems, with};
    use crate::policy::{AttestationPolicy, Pccs};

    fn text(lines: &str) -> String {
        format!("[attestation]\n{lines}\n{}", with(""))
    }

    fn attestation(lines: &str) -> AttestationPolicy {
        parse(&text(lines)).unwrap().policy.attestation.clone()
    }

    #[test]
    fn who_is_not_named_is_not_asked() {
        assert_eq!(parse(&with("")).unwrap().policy.attestation, AttestationPolicy::default());
        assert_eq!(attestation("").pccs, None);
        assert!(attestation("").egress().egress.is_empty());
    }

    #[test]
    fn a_pccs_is_reached_by_a_rule_for_its_four_paths() {
        let policy =
            attestation("pccs = \"https://PCCS.example.com/cache/\"\nresolve = [\"10.0.0.1\"]\nca = \"ca.pem\"");
        let Pccs { to, port, prefix, rule } = policy.pccs.clone().unwrap();
        assert_eq!((to.to_string().as_str(), port, prefix.as_str()), ("pccs.example.com", 443, "/cache"));
        assert_eq!((rule.resolve.len(), rule.ca.len(), rule.id.as_str()), (1, 1, "attestation.pccs"));
        let egress = policy.egress();
        let route = egress.route(&to, 443).unwrap();
        for path in Pccs::PATHS {
            let path = format!("/cache{path}");
            assert!(route.request("GET", &path).is_ok(), "{path}");
            assert!(route.request("POST", &path).is_err(), "{path}");
        }
        for path in ["/cache/sgx/certification/v4/pckcerts", "/sgx/certification/v4/pckcrl", "/cache/"] {
            assert!(route.request("GET", path).is_err(), "{path}");
        }
        assert!(egress.route(&Destination::Address([127, 0, 0, 1].into()), 443).is_err());
        assert!(egress.route(&to, 80).is_err());
    }

    #[test]
    fn the_api_in_a_url_is_not_asked_for_twice() {
        for (url, prefix) in [
            ("https://a.example", ""),
            ("https://a.example/sgx/certification/v4/", ""),
            ("https://a.example/x//sgx/certification/v4", "/x"),
            ("https://a.example/tdx/certification/v4", ""),
        ] {
            assert_eq!(attestation(&format!("pccs = \"{url}\"")).pccs.unwrap().prefix, prefix, "{url}");
        }
    }

    #[test]
    fn whom_the_agent_asks_is_part_of_the_policy() {
        let hash = |lines: &str| parse(&text(lines)).unwrap().policy.hash().to_string();
        let one = "pccs = \"https://a.example\"";
        let all = [
            hash(""),
            hash(one),
            hash("pccs = \"https://a.example/x\""),
            hash("pccs = \"http://a.example\""),
            hash(&format!("{one}\nca = \"ca.pem\"")),
            hash(&format!("{one}\nresolve = [\"10.0.0.1\"]")),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
        assert_eq!(hash(""), parse(&with("")).unwrap().policy.hash().to_string());
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_write() {
        for (lines, said) in [
            (
                "pccs = \"pccs.example.com\"",
                "\"pccs.example.com\" is not the address of a PCCS; write it like \"https://pccs",
            ),
            ("pccs = \"https://a.example/../b\"", "is not the address of a PCCS"),
            ("pccs = \"https://a.example/?x\"", "is not the address of a PCCS"),
            ("pccs = \"ftp://a.example\"", "is not the address of a PCCS"),
            ("pcs = \"https://a.example\"", "[attestation] has no field \"pcs\"; did you mean `pccs`?"),
            ("ca = \"ca.pem\"", "`ca` has no effect without `pccs`"),
            ("pccs = \"http://a.example\"\nca = \"ca.pem\"", "`ca` has no effect with http://"),
            ("pccs = 1", "`pccs` must be"),
        ] {
            let all = problems(&text(lines));
            assert!(all.len() == 1 && all[0].contains(said), "{said:?} is missing in {all:?}");
        }
    }
}
