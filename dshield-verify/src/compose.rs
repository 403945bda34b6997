//! What a dstack machine was told to run: the bytes of `app-compose.json` and the hash that the hardware vouches for flow
//! in, findings about who could get around D-Shield flow out.
//!
//! A quote over the right report data proves little as long as anybody else on the machine can have one made, or can take
//! the walls down. So of all services only D-Shield may be privileged, or reach the sockets, devices and folders that
//! make quotes and containers.
//!
//! * [`app_compose`]: the file of dstack, whose SHA-256 is the compose hash.
//! * [`mod@lint`]: what is wrong with it, as a list. What the lint does not know it reports: it fails closed.
//! * `json`, `yaml`: readers that refuse what other readers of the same text may read otherwise.
//! * `service`, `mounts`, `resources`, `variables`: one part of a compose file each.
//!
//! What it does not say: anything about the contents of images, and about volumes that an earlier compose file of the
//! same machine left on its disk.
pub mod app_compose;
mod json;
pub mod lint;
mod mounts;
mod resources;
mod service;
#[cfg(test)]
mod tests;
mod variables;
mod yaml;

pub use self::app_compose::{AppCompose, AppComposeFault};
pub use self::lint::{Expectations, Finding, Findings, Shield, lint};
