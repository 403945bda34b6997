//! How each peer is configured: as its documentation recommends for speed, one process or thread for each processor
//! where it can, verifying the upstream's certificate where it ends TLS, and without a log, which D-Shield has.
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use super::pki::Pki;

/// TCP mode.
pub fn haproxy(port: u16, upstream: SocketAddr) -> String {
    format!(
        "global\n  maxconn 4096\n\
         defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n\
         frontend in\n  bind 127.0.0.1:{port}\n  default_backend out\n\
         backend out\n  server upstream {upstream}\n"
    )
}

/// Any name but `host` has no upstream, so its connections are closed.
pub fn nginx_stream(module: &Path, folder: &Path, port: u16, upstream: SocketAddr, host: &str) -> String {
    format!(
        "load_module {};\n{}\
         stream {{\n  map $ssl_preread_server_name $upstream {{ {host} {upstream}; }}\n  \
         server {{\n    listen 127.0.0.1:{port};\n    ssl_preread on;\n    proxy_pass $upstream;\n  }}\n}}\n",
        module.display(),
        nginx(folder)
    )
}

/// A reverse proxy that keeps connections on both sides and streams bodies.
pub fn nginx_http(pki: &Pki, folder: &Path, port: u16, upstream: SocketAddr, host: &str) -> String {
    let (leaf, ca) = (pki.leaf.display(), pki.ca.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    format!(
        "{}http {{\n{temporary}  access_log off;\n  client_max_body_size 0;\n  keepalive_requests 100000000;\n  \
         keepalive_timeout 600s;\n  \
         upstream out {{\n    server {upstream};\n    keepalive 512;\n    keepalive_requests 100000000;\n  }}\n  \
         server {{\n    listen 127.0.0.1:{port} ssl;\n    ssl_certificate {leaf};\n    ssl_certificate_key {leaf};\n    \
         ssl_protocols TLSv1.2 TLSv1.3;\n    \
         location / {{\n      proxy_pass https://out;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection \"\";\n      proxy_set_header Host $host;\n      \
         proxy_request_buffering off;\n      proxy_max_temp_file_size 0;\n      \
         proxy_ssl_protocols TLSv1.2 TLSv1.3;\n      proxy_ssl_verify on;\n      \
         proxy_ssl_trusted_certificate {ca};\n      proxy_ssl_server_name on;\n      proxy_ssl_name {host};\n    \
         }}\n  }}\n}}\n",
        nginx(folder)
    )
}

fn nginx(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "user root;\nworker_processes auto;\ndaemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log warn;\n\
         events {{ worker_connections 4096; }}\n"
    )
}

/// ssl-bump after a look at the ClientHello's server name.
pub fn squid(pki: &Pki, folder: &Path, helper: &Path, database: &Path, port: u16) -> String {
    let (ca, authority) = (pki.ca.display(), pki.ca_with_key.display());
    let (folder, helper, database) = (folder.display(), helper.display(), database.display());
    format!(
        "http_port 127.0.0.1:{port} ssl-bump tls-cert={authority} generate-host-certificates=on \
         dynamic_cert_mem_cache_size=16MB\n\
         sslcrtd_program {helper} -s {database} -M 16MB\nsslcrtd_children 2\n\
         acl hello at_step SslBump1\nssl_bump peek hello\nssl_bump bump all\n\
         tls_outgoing_options cafile={ca}\nhttp_access allow all\ncache deny all\nvisible_hostname bench\n\
         hosts_file {folder}/hosts\naccess_log none\ncache_log {folder}/cache.log\npid_filename {folder}/squid.pid\n\
         coredump_dir {folder}\npinger_enable off\nmax_filedescriptors 4096\nshutdown_lifetime 0 seconds\n"
    )
}

/// HTTP/1.1 as everybody here, bodies streamed, no output.
pub fn mitmproxy(pki: &Pki, folder: &Path, port: u16) -> Vec<OsString> {
    let port = port.to_string();
    let mut arguments: Vec<OsString> =
        ["-q", "--mode", "regular", "--listen-host", "127.0.0.1", "--listen-port", &port].map(Into::into).into();
    let settings = [
        format!("confdir={}", folder.display()),
        format!("ssl_verify_upstream_trusted_ca={}", pki.ca.display()),
        "stream_large_bodies=64k".to_owned(),
        "http2=false".to_owned(),
    ];
    arguments.extend(settings.into_iter().flat_map(|setting| ["--set".into(), setting.into()]));
    arguments
}
