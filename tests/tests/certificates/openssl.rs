//! The rows that need OpenSSL: old signatures and keys to make, old protocols to speak.
use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use dshield_tests::port;
use dshield_tests::standin::origin::Origin;
use dshield_tests::standin::tls::server_config;
use dshield_tests::wait;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use super::Upstream;
use super::rows::Row;

/// An RSA authority and what it issues, in files.
struct Folder(TempDir);

impl Folder {
    /// `ca.pem`, and a `leaf.pem` for `host`, made with these options of `openssl req`.
    fn new(host: &str, key: &str, leaf: &[&str]) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        let ca = ["-newkey", "rsa:2048", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=D-Shield RSA CA"];
        folder.request(&ca, &["-addext", "keyUsage=critical,keyCertSign"]);
        let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-out", "leaf.pem", "-keyout", "leaf.key", "-newkey", key];
        let alternative = format!("subjectAltName=DNS:{host}");
        let extensions = ["-subj", "/CN=server", "-addext", &alternative, "-addext", "basicConstraints=CA:FALSE"];
        folder.request(&[signed.as_slice(), &extensions].concat(), leaf);
        folder
    }

    fn request(&self, arguments: &[&str], more: &[&str]) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "30"])
            .args(arguments)
            .args(more)
            .current_dir(self.0.path())
            .output()
            .expect("openssl is there");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn ca(&self) -> String {
        std::fs::read_to_string(self.path().join("ca.pem")).expect("it was made")
    }

    /// Shown by rustls.
    fn origin(&self) -> Upstream {
        let certificate = CertificateDer::from_pem_file(self.path().join("leaf.pem")).expect("it was made");
        let key = PrivateKeyDer::from_pem_file(self.path().join("leaf.key")).expect("it was made");
        Upstream::Origin(Origin::start(Some(server_config(vec![certificate], key))))
    }

    /// Shown by `openssl s_server` with these options.
    fn server(self, options: &[&str]) -> Upstream {
        Upstream::Openssl(Server::start(self, options))
    }
}

/// A running `openssl s_server`. It writes what it decrypts into a file and ends when dropped.
pub struct Server {
    addr: SocketAddr,
    process: Mutex<Child>,
    folder: Folder,
}

impl Server {
    fn start(folder: Folder, options: &[&str]) -> Self {
        let addr = port::free();
        let got = File::create(folder.path().join("got")).expect("the folder is ours");
        let process = Command::new("openssl")
            .args(["s_server", "-quiet", "-cert", "leaf.pem", "-key", "leaf.key", "-accept", &addr.to_string()])
            .args(options)
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(got)
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is there");
        wait::until("openssl to listen", || TcpStream::connect(addr).ok());
        Self { addr, process: Mutex::new(process), folder }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it decrypted so far.
    pub fn got(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("got")).expect("it was made");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends this to whoever is connected.
    pub fn say(&self, text: &str) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let stdin = process.stdin.as_mut().expect("it was asked for");
        stdin.write_all(text.as_bytes()).expect("it reads");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = process.kill();
        let _ = process.wait();
    }
}

const RSA: &str = "rsa:2048";
/// Without it OpenSSL itself would not show such a certificate or speak such a protocol.
const ANYTHING: [&str; 2] = ["-cipher", "ALL:@SECLEVEL=0"];

/// None of these proves the name.
pub fn refused() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |what, host: &str, key: &str, leaf: &[&str], upstream: &dyn Fn(Folder) -> Upstream| {
        let folder = Folder::new(host, key, leaf);
        let ca = folder.ca();
        rows.push(Row::new(what, host, upstream(folder), &ca));
    };
    let origin = |folder: Folder| folder.origin();
    add("signed with SHA-1", "sha1.upstream.example", RSA, &["-sha1"], &origin);
    add("signed with MD5", "md5.upstream.example", RSA, &["-md5"], &origin);
    let weak = |folder: Folder| folder.server(&ANYTHING);
    add("an RSA key of 1024 bits", "rsa1024.upstream.example", "rsa:1024", &[], &weak);
    for (what, host, version) in [
        ("a server of TLS 1.0", "tls10.upstream.example", "-tls1"),
        ("a server of TLS 1.1", "tls11.upstream.example", "-tls1_1"),
    ] {
        add(what, host, RSA, &[], &|folder| folder.server(&[&ANYTHING[..], &[version]].concat()));
    }
    rows
}

/// What the rows above would be without their faults.
pub fn good() -> Row {
    let host = "rsa.upstream.example";
    let folder = Folder::new(host, RSA, &[]);
    let ca = folder.ca();
    Row::new("RSA by OpenSSL", host, folder.server(&[&ANYTHING[..], &["-tls1_2"]].concat()), &ca)
}
