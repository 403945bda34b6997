//! The rows that rcgen can make and rustls can show.
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use dshield_tests::standin::origin::Origin;
use dshield_tests::standin::tls::{Issued, server_config};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    NameConstraints, SanType, date_time_ymd,
};
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tempfile::NamedTempFile;

use super::Upstream;

/// An upstream, the name that it is reached by, and what the rule for it trusts beside the public authorities.
pub struct Row {
    /// What is special about its certificate.
    pub what: &'static str,
    pub host: String,
    pub upstream: Upstream,
    pub ca: NamedTempFile,
}

impl Row {
    pub fn new(what: &'static str, host: &str, upstream: Upstream, ca_pem: &str) -> Self {
        let mut ca = tempfile::Builder::new().prefix("upstream-ca-").suffix(".pem").tempfile().expect("a file");
        ca.write_all(ca_pem.as_bytes()).expect("the file is ours");
        Self { what, host: host.to_owned(), upstream, ca }
    }
}

/// Makes rows whose rules all trust one authority.
struct Rows {
    root: Issued,
    rows: Vec<Row>,
}

impl Rows {
    fn new() -> Self {
        Self { root: Issued::authority(|_| ()), rows: Vec::new() }
    }

    fn add(&mut self, what: &'static str, config: impl FnOnce(&Issued, &str) -> Arc<ServerConfig>) {
        let host = format!("row-{}.upstream.example", self.rows.len());
        self.add_as(what, &host, config);
    }

    fn add_as(&mut self, what: &'static str, host: &str, config: impl FnOnce(&Issued, &str) -> Arc<ServerConfig>) {
        let upstream = Upstream::Origin(Origin::start(Some(config(&self.root, host))));
        self.rows.push(Row::new(what, host, upstream, &self.root.certificate.pem()));
    }

    /// A leaf of the trusted authority with one thing changed.
    fn leaf(&mut self, what: &'static str, change: impl FnOnce(&mut CertificateParams)) {
        self.add(what, |root, host| root.leaf(&[host], change).server(&[]));
    }

    /// A leaf of the trusted authority for these names instead of the upstream's own.
    fn names(&mut self, what: &'static str, names: impl FnOnce(&str) -> Vec<SanType>) {
        self.add(what, |root, host| {
            let names = names(host);
            root.leaf(&[], |params| params.subject_alt_names = names).server(&[])
        });
    }

    /// A leaf of an authority below the trusted one, which has one thing changed.
    fn below(&mut self, what: &'static str, change: impl FnOnce(&mut CertificateParams)) {
        self.add(what, |root, host| {
            let middle = root.intermediate("between", change);
            middle.leaf(&[host], |_| ()).server(&[&middle])
        });
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("the name is ASCII"))
}

/// None of these proves the name.
pub fn refused() -> Vec<Row> {
    let mut rows = Rows::new();
    validity(&mut rows);
    names(&mut rows);
    issuers(&mut rows);
    purposes(&mut rows);
    rows.rows
}

fn validity(rows: &mut Rows) {
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 12, 31);
    rows.leaf("expired", expired);
    rows.leaf("not yet valid", |params| params.not_before = date_time_ymd(2096, 1, 1));
    rows.below("an expired intermediate", expired);
}

fn names(rows: &mut Rows) {
    rows.names("for another name", |_| vec![dns("other.example")]);
    rows.names("for no name at all", |_| Vec::new());
    rows.names("the name only in a URI and a mail address", |host| {
        let text = |text: String| text.as_str().try_into().expect("the name is ASCII");
        vec![SanType::URI(text(format!("https://{host}/"))), SanType::Rfc822Name(text(format!("root@{host}")))]
    });
    rows.names("for the address that it has", |_| vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))]);
    rows.names("the name with a trailing dot", |host| vec![dns(&format!("{host}."))]);
    rows.names("the name with a NUL and more behind it", |host| vec![dns(&format!("{host}\0.attacker.example"))]);
    rows.names("a wildcard within a label", |host| vec![dns(&host.replacen("row-", "r*-", 1))]);
    rows.names("a wildcard for everything", |_| vec![dns("*")]);
    rows.names("a wildcard that is not the first label", |host| vec![dns(&host.replace("upstream", "*"))]);
    rows.names("the apex of the name", |_| vec![dns("upstream.example")]);
    rows.add("the name only as the common name", |root, host| {
        root.leaf(&[], |params| params.distinguished_name.push(DnType::CommonName, host)).server(&[])
    });
    rows.add("the common name beside another alternative name", |root, host| {
        let change = |params: &mut CertificateParams| params.distinguished_name.push(DnType::CommonName, host);
        root.leaf(&["other.example"], change).server(&[])
    });
    rows.add_as("a wildcard that would span two labels", "a.b.upstream.example", |root, _| {
        root.leaf(&["*.upstream.example"], |_| ()).server(&[])
    });
}

fn issuers(rows: &mut Rows) {
    rows.add("signed by itself", |_, host| {
        let itself = Issued::authority(|params| {
            params.subject_alt_names = vec![dns(host)];
            params.distinguished_name.push(DnType::CommonName, host);
            params.is_ca = IsCa::NoCa;
            params.key_usages.clear();
        });
        itself.server(&[])
    });
    rows.add("the trusted authority's name, but another key", |_, host| {
        Issued::authority(|_| ()).leaf(&[host], |_| ()).server(&[])
    });
    let other = Issued::authority(|params| params.distinguished_name.push(DnType::CommonName, "Another CA"));
    rows.add("an authority that only another rule trusts", |_, host| other.leaf(&[host], |_| ()).server(&[&other]));
    // The other rule.
    let server = other.leaf(&["other.example"], |_| ()).server(&[]);
    let upstream = Upstream::Origin(Origin::start(Some(server)));
    let row =
        Row::new("its own authority, another name", "trusts.upstream.example", upstream, &other.certificate.pem());
    rows.rows.push(row);
    rows.add("without the intermediate", |root, host| {
        root.intermediate("between", |_| ()).leaf(&[host], |_| ()).server(&[])
    });
    rows.add("issued by a server's certificate", |root, host| {
        let leaf = root.leaf(&["other.example"], |params| params.distinguished_name.push(DnType::CommonName, "leaf"));
        leaf.leaf(&[host], |_| ()).server(&[&leaf])
    });
    rows.below("an intermediate that is explicitly no authority", |params| params.is_ca = IsCa::ExplicitNoCa);
    rows.add("a longer chain than the authority allows", |root, host| {
        let end = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let first = root.intermediate("first", end);
        let second = first.intermediate("second", |_| ());
        second.leaf(&[host], |_| ()).server(&[&second, &first])
    });
    let constraints = |permitted: &[&str], excluded: &[&str]| {
        let trees = |names: &[&str]| names.iter().map(|name| GeneralSubtree::DnsName((*name).to_owned())).collect();
        Some(NameConstraints { permitted_subtrees: trees(permitted), excluded_subtrees: trees(excluded) })
    };
    rows.below("an intermediate that is excluded from the name", |params| {
        params.name_constraints = constraints(&[], &["upstream.example"]);
    });
    rows.below("an intermediate that is permitted another name only", |params| {
        params.name_constraints = constraints(&["other.example"], &[]);
    });
}

fn purposes(rows: &mut Rows) {
    rows.leaf("for clients only", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    rows.leaf("for signing code only", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]
    });
    rows.below("an intermediate for clients only", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    rows.leaf("an authority's certificate as the server's own", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    rows.leaf("a critical extension that nobody knows", |params| {
        let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55_555, 1], vec![5, 0]);
        unknown.set_criticality(true);
        params.custom_extensions = vec![unknown];
    });
    rows.add("another's certificate, without its key", |root, host| {
        let (theirs, mine) = (root.leaf(&[host], |_| ()), root.leaf(&[host], |_| ()));
        let key = PrivatePkcs8KeyDer::from(mine.key.serialize_der());
        server_config(vec![theirs.certificate.der().clone()], key.into())
    });
}

/// These prove the name.
pub fn good() -> Vec<Row> {
    let mut rows = Rows::new();
    rows.leaf("as it should be", |_| ());
    rows.leaf("for servers, and valid for a century", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
    });
    rows.below("below an intermediate", |_| ());
    rows.below("below an intermediate that is permitted the name", |params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("upstream.example".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    });
    rows.names("a wildcard for one label", |_| vec![dns("*.upstream.example")]);
    rows.names("one of many names", |host| vec![dns("a.example"), dns(host), dns("*.b.example")]);
    rows.rows
}
