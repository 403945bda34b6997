//! A connection that a policy allows, for tests of what is spoken on it: without a sandbox, towards real sockets.
use std::sync::Arc;

use dshield_common::destination::Destination;
use dshield_common::log::entry::{Event, Request};
use dshield_common::log::line::SignedEntry;
use dshield_common::name::HostName;
use dshield_common::policy::Deployment;

use super::allowed::Allowed;
use super::times::Times;
use super::{InspectionCa, Proxy};
use crate::instance::Instance;
use crate::log::{BootFacts, Log, Storage};
use crate::refusals::Refusals;

/// The name that every rule here is for.
pub(super) const NAME: &str = "upstream.example";

/// A connection to port 80 of [`NAME`], which is at `upstream`.
pub(super) async fn allowed(upstream: std::net::SocketAddr, times: Times) -> Arc<Allowed> {
    let text = format!(
        "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"f\"\n\
         [[function.egress]]\nhost = \"{NAME}\"\nports = [80]\ntls = \"none\"\nresolve = [\"{upstream}\"]\n"
    );
    let policy = Deployment::parse(&text, &mut |_| unreachable!()).unwrap().policy;
    let function = policy.functions[0].clone();
    let route = function.route(&Destination::from(HostName::parse(NAME).unwrap()), 80).unwrap();
    let log = Log::open(Storage::Memory, BootFacts::default()).unwrap();
    let proxy = Proxy::new(log.clone(), Arc::new(InspectionCa::generate().unwrap()), Arc::new(|_, _| None));
    let egress = proxy.function(function.clone(), &policy, Arc::default(), 64).unwrap();
    let instance = Arc::new(Instance::new("f-0".to_owned(), function, 1));
    let refusals = Refusals::new(instance.clone(), log);
    let context = Arc::new(proxy.context(instance, egress, refusals, true, times));
    Allowed::log(context, route, Arc::default(), None).await.unwrap()
}

/// The last entries of the requests in the log of a connection.
pub(super) async fn ends(log: &Log) -> Vec<Request> {
    events(log)
        .await
        .into_iter()
        .filter_map(|event| if let Event::Request(request) = event { Some(request) } else { None })
        .filter(|request| request.begin.is_some())
        .collect()
}

async fn events(log: &Log) -> Vec<Event> {
    log.settled().await;
    let lines = log.read(0, 1000).await.unwrap();
    lines.iter().map(|line| SignedEntry::parse(line).unwrap().decode().unwrap().record.event).collect()
}
