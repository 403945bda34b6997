//! The proxies that D-Shield is compared with: each is started with a configuration of ours, in a namespace of its
//! own, and killed when dropped.
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dshield_tests::client::Error;
use dshield_tests::namespace::Namespace;
use dshield_tests::{built, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::config;
use super::pki::Pki;
use super::upstream::Upstream;
use super::usage::{self, Usage};

/// Where the client believes the upstream is (RFC 5737), when it is redirected to the proxy.
const REDIRECTED: &str = "203.0.113.1:443";

/// Where the upstream listens in a peer's namespace: as the client's requests have it, which name no port.
const UPSTREAM_PORT: u16 = 443;

/// Where the peer listens; nothing else listens in a peer's namespace.
const PORT: u16 = 8443;

/// What all peers are started from.
#[derive(Debug)]
pub struct Ground<'a> {
    /// For configurations and logs; each peer makes a folder in it.
    pub folder: &'a Path,
    /// Whose certificates they show and trust.
    pub pki: &'a Pki,
    /// Where they lead.
    pub upstream: &'a Upstream,
    /// The name that the client asks for.
    pub host: &'static str,
}

/// A running proxy.
#[derive(Debug)]
pub struct Peer {
    /// What it says it is.
    pub version: String,
    /// How the client reaches it.
    pub way: &'static str,
    child: Child,
    namespace: Namespace,
    address: String,
    tunnel: Option<String>,
    host: &'static str,
    bundle: PathBuf,
}

impl Peer {
    /// HAProxy in TCP mode, reached as a transparent proxy is where nft works.
    pub fn haproxy(ground: &Ground) -> Result<Self, Error> {
        let start = Start::of(ground, "haproxy")?;
        let program = program("haproxy", "haproxy")?;
        let file = start.file("haproxy.cfg", &config::haproxy(PORT, start.upstream))?;
        let mut peer = start.run(&program, &["-f".into(), file.into()], "-v")?;
        match redirect(&peer.namespace) {
            Ok(()) => {
                (peer.address, peer.way) = (REDIRECTED.to_owned(), "nft REDIRECT");
            }
            Err(why) => eprintln!("\nHAProxy is reached by plain connect: {why}"),
        }
        Ok(peer)
    }

    /// nginx, choosing the upstream by the ClientHello's server name.
    pub fn nginx_stream(ground: &Ground) -> Result<Self, Error> {
        let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
        if !module.exists() {
            return Err("nginx has no stream module (Debian: libnginx-mod-stream)".into());
        }
        let start = Start::of(ground, "nginx-stream")?;
        let text = config::nginx_stream(module, &start.folder, PORT, start.upstream, ground.host);
        start.nginx(&text)
    }

    /// nginx, ending TLS on both sides.
    pub fn nginx_http(ground: &Ground) -> Result<Self, Error> {
        let start = Start::of(ground, "nginx-http")?;
        let text = config::nginx_http(ground.pki, &start.folder, PORT, start.upstream, ground.host);
        start.nginx(&text)
    }

    /// Squid, asked to `CONNECT` and looking inside.
    pub fn squid(ground: &Ground) -> Result<Self, Error> {
        let start = Start::of(ground, "squid")?;
        let program = program("squid", "squid-openssl")?;
        let helper = Path::new("/usr/lib/squid/security_file_certgen");
        if !helper.exists() {
            return Err("squid was built without OpenSSL (Debian: squid-openssl)".into());
        }
        let database = start.folder.join("certificates");
        checked(Command::new(helper).args(["-c", "-s"]).arg(&database).args(["-M", "16MB"]))?;
        // It leaves root, and Debian says for whom.
        checked(Command::new("chown").args(["-R", "proxy:"]).arg(&start.folder))?;
        start.file("hosts", &format!("127.0.0.1 {}\n", ground.host))?;
        let file = start.file("squid.conf", &config::squid(ground.pki, &start.folder, helper, &database, PORT))?;
        let port = start.upstream.port();
        let mut peer = start.run(&program, &["-N".into(), "-f".into(), file.into()], "-v")?;
        (peer.tunnel, peer.way) = (Some(format!("{}:{port}", ground.host)), "CONNECT");
        Ok(peer)
    }

    /// mitmproxy without a terminal, asked to `CONNECT`.
    pub fn mitmproxy(ground: &Ground) -> Result<Self, Error> {
        let start = Start::of(ground, "mitmproxy")?;
        // `cargo xtask bench proxy --install` puts it into the target folder.
        let program = match built("mitmproxy/bin/mitmdump") {
            Some(installed) => installed,
            None => program("mitmdump", "mitmproxy")?,
        };
        fs::copy(&ground.pki.ca_with_key, start.folder.join("mitmproxy-ca.pem"))?;
        let upstream = start.upstream;
        let arguments = config::mitmproxy(ground.pki, &start.folder, PORT);
        let mut peer = start.run(&program, &arguments, "--version")?;
        (peer.tunnel, peer.way) = (Some(upstream.to_string()), "CONNECT");
        Ok(peer)
    }

    /// Runs the client with this event in the peer's namespace.
    pub fn load(&self, mut event: Value) -> Result<Value, Error> {
        event["do"] = json!("load");
        event["host"] = json!(self.host);
        event["address"] = json!(self.address);
        event["tunnel"] = json!(self.tunnel);
        let mut probe = Command::new(built("probe").ok_or("the probe is not built")?);
        probe.arg(event.to_string()).env("SSL_CERT_FILE", &self.bundle);
        let output = self.namespace.inside(|| probe.stdin(Stdio::null()).stderr(Stdio::inherit()).output())?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What it and its workers have used.
    pub fn usage(&self) -> Usage {
        Usage::of_family(self.child.id())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The workers first known, then killed: those of a killed parent are nobody's children.
        for process in usage::family(self.child.id()) {
            // Fails only for what has ended by itself.
            let _ = kill(Pid::from_raw(process as i32), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// What a peer is started from.
struct Start<'a> {
    ground: &'a Ground<'a>,
    namespace: Namespace,
    upstream: SocketAddr,
    folder: PathBuf,
}

impl<'a> Start<'a> {
    fn of(ground: &'a Ground<'a>, name: &str) -> Result<Self, Error> {
        let namespace = Namespace::make();
        namespace.run("ip link set lo up");
        let upstream = namespace.inside(|| ground.upstream.listen(UPSTREAM_PORT))?;
        let folder = ground.folder.join(name);
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
        Ok(Self { ground, namespace, upstream, folder })
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn nginx(self, text: &str) -> Result<Peer, Error> {
        let program = program("nginx", "nginx-light")?;
        let file = self.file("nginx.conf", text)?;
        self.run(&program, &["-c".into(), file.into()], "-v")
    }

    /// Starts it and waits until it listens.
    fn run(self, program: &Path, arguments: &[OsString], version: &str) -> Result<Peer, Error> {
        let said = self.folder.join("output");
        let output = File::create(&said)?;
        // Should we be killed, it ends too, and takes its workers with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "nsenter"]).arg(format!("--net={}", self.namespace.path()));
        command.arg(program).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        let address = SocketAddr::from(([127, 0, 0, 1], PORT));
        let mut peer = Peer {
            version: asked(program, version),
            way: "plain connect",
            child,
            namespace: self.namespace,
            address: address.to_string(),
            tunnel: None,
            host: self.ground.host,
            bundle: self.ground.pki.ca.clone(),
        };
        let listens = wait::within(Duration::from_secs(30), || {
            if let Ok(Some(status)) = peer.child.try_wait() {
                return Some(Err(status));
            }
            peer.namespace.inside(|| TcpStream::connect(address)).ok().map(|_| Ok(()))
        });
        match listens {
            Some(Ok(())) => Ok(peer),
            Some(Err(status)) => Err(format!("it ended ({status}): {}", tail(&said)).into()),
            None => Err(format!("it did not listen in time: {}", tail(&said)).into()),
        }
    }
}

/// Sends what goes to [`REDIRECTED`] to the proxy.
fn redirect(namespace: &Namespace) -> Result<(), Error> {
    program("nft", "nftables")?;
    // The client needs an address of its own: with none but 127.0.0.1 its packets would come from 0.0.0.0.
    namespace.run("ip address add 192.0.2.1/32 dev lo");
    namespace.run("ip route add default dev lo src 192.0.2.1");
    let (address, port) = REDIRECTED.split_once(':').unwrap_or_default();
    let rules = format!(
        "table ip bench {{\n chain output {{\n  type nat hook output priority -100\n  \
         ip daddr {address} tcp dport {port} redirect to :{PORT}\n }}\n}}\n"
    );
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), rules)?;
    checked(Command::new("nsenter").arg(format!("--net={}", namespace.path())).args(["nft", "-f"]).arg(file.path()))
}

fn program(name: &str, package: &str) -> Result<PathBuf, Error> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{name} is not installed (Debian: {package})").into())
}

/// The first line of what it says about its version.
fn asked(program: &Path, option: &str) -> String {
    let output = Command::new(program).arg(option).stdin(Stdio::null()).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

fn checked(command: &mut Command) -> Result<(), Error> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

fn tail(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(4)..].join(" / ")
}
