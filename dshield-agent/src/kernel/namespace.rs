//! The network of a sealed namespace: its interfaces, its routes in all tables, and its routing rules.
//!
//! Compared are the kernel's own messages without what changes by itself, so a route differs when anything
//! about it does. They are put into words only for the log.
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use super::broken::Broken;
use super::netlink::{
    IFF_UP, LOOPBACK, Lister, RT_TABLE_LOCAL, RTA_OIF, RTM_NEWLINK, RTM_NEWROUTE, RTM_NEWRULE, attributes, u32_at,
};

/// Headers: `struct ifinfomsg`, `struct rtmsg`, `struct fib_rule_hdr`.
const LINK_HEADER: usize = 16;
const HEADER: usize = 12;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_QDISC: u16 = 6;
const IFLA_MASTER: u16 = 10;
const IFLA_XDP: u16 = 43;
/// What is compared of an interface, besides its type, number and flags. The rest are counters, and settings that
/// no packet depends on.
const IFLA_COMPARED: [u16; 6] = [IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_QDISC, IFLA_MASTER, IFLA_XDP];

const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
/// When a route was used last.
const RTA_CACHEINFO: u16 = 12;
/// In routes and, with the same number, in rules.
const RTA_TABLE: u16 = 15;
/// `FRA_PRIORITY`.
const FRA_PRIORITY: u16 = 6;
/// A copy that the kernel makes of a route for one destination; gone by itself.
const RTM_F_CLONED: u32 = 0x200;

/// How often a list is asked for again when something changed while it was read.
const ATTEMPTS: usize = 5;

/// A namespace's network as it was noted; asks from any thread.
#[derive(Debug)]
pub struct Namespace {
    lister: Mutex<Lister>,
    noted: Items,
}

/// Interfaces, routes and rules, each with how many there are of exactly this one.
type Items = BTreeMap<Item, usize>;

/// One interface, route or rule: the kind of the message, and what is compared of it.
type Item = (u16, Vec<u8>);

impl Namespace {
    /// Notes the network of the calling thread's namespace. Blocks for some tenths of a millisecond.
    ///
    /// # Errors
    /// The kernel's answer, or it has another interface than `lo`.
    pub fn take() -> io::Result<Self> {
        let mut lister = Lister::open()?;
        let noted = list(&mut lister)?;
        for (kind, bytes) in noted.keys() {
            let index_and_flags = (u32_at(bytes, 4), u32_at(bytes, 8).map(|flags| flags & IFF_UP));
            if *kind == RTM_NEWLINK && index_and_flags != (Some(LOOPBACK), Some(IFF_UP)) {
                // Modules for tunnels give every new namespace an interface, unless told not to.
                return Err(io::Error::other(format!(
                    "it has {} from the start; run `sysctl net.core.fb_tunnels_only_for_init_net=1`",
                    in_words(*kind, bytes)
                )));
            }
        }
        Ok(Self { lister: Mutex::new(lister), noted })
    }

    /// Compares with what was noted.
    pub(super) fn check(&self) -> Result<(), Broken> {
        let mut lister = self.lister.lock().unwrap_or_else(PoisonError::into_inner);
        let now = list(&mut lister).map_err(|error| Broken::io("its routes", &error))?;
        match difference(&self.noted, &now) {
            None => Ok(()),
            Some(what) => Err(Broken::changed(what)),
        }
    }
}

fn list(lister: &mut Lister) -> io::Result<Items> {
    let mut attempt = 1;
    loop {
        let mut items = Items::new();
        let listed = lister.list(|kind, message| {
            if let Some(bytes) = compared(kind, message) {
                *items.entry((kind, bytes)).or_default() += 1;
            }
        });
        match listed {
            Ok(()) => return Ok(items),
            Err(error) if error.kind() == io::ErrorKind::Interrupted && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// What is compared of a message: its header and attributes without what changes by itself.
fn compared(kind: u16, message: &[u8]) -> Option<Vec<u8>> {
    let header = if kind == RTM_NEWLINK { LINK_HEADER } else { HEADER };
    if kind == RTM_NEWROUTE && u32_at(message, 8).is_some_and(|flags| flags & RTM_F_CLONED != 0) {
        return None;
    }
    // A message that is too short is compared whole.
    let mut bytes = message.get(..header).unwrap_or(message).to_vec();
    for (attribute, value) in attributes(message, header) {
        let wanted = match kind {
            RTM_NEWLINK => IFLA_COMPARED.contains(&attribute),
            RTM_NEWROUTE => attribute != RTA_CACHEINFO,
            _ => true,
        };
        if wanted {
            // As in struct rtattr, so that `attributes` can read it again.
            bytes.extend(u16::try_from(value.len() + 4).unwrap_or(u16::MAX).to_ne_bytes());
            bytes.extend(attribute.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    Some(bytes)
}

fn difference(before: &Items, now: &Items) -> Option<String> {
    let words = |items: &Items, other: &Items| {
        let only = items.iter().find(|(item, count)| other.get(item) != Some(count));
        only.map(|((kind, bytes), _)| in_words(*kind, bytes))
    };
    match (words(before, now), words(now, before)) {
        (None, None) => None,
        (Some(before), Some(now)) if before == now => Some(format!("{now} is another one than it was")),
        (Some(before), Some(now)) => Some(format!("{before} is gone, {now} is new")),
        (Some(before), None) => Some(format!("{before} is gone")),
        (None, Some(now)) => Some(format!("{now} is new")),
    }
}

/// As ip(8) would write it.
fn in_words(kind: u16, bytes: &[u8]) -> String {
    let header = if kind == RTM_NEWLINK { LINK_HEADER } else { HEADER };
    let value = |wanted| attributes(bytes, header).find(|(attribute, _)| *attribute == wanted).map(|(_, value)| value);
    let number = |wanted| value(wanted).and_then(|value| u32_at(value, 0));
    let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
    let family = if byte(0) == libc::AF_INET6 as u8 { "IPv6" } else { "IPv4" };
    let table = number(RTA_TABLE).unwrap_or_else(|| byte(4).into());
    let table = if table == u32::from(RT_TABLE_LOCAL) { "local".to_owned() } else { table.to_string() };
    match kind {
        RTM_NEWLINK => {
            let name: Vec<_> =
                value(IFLA_IFNAME).unwrap_or_default().iter().copied().take_while(|byte| *byte != 0).collect();
            let state = if u32_at(bytes, 8).unwrap_or_default() & IFF_UP == 0 { "down" } else { "up" };
            let index = u32_at(bytes, 4).unwrap_or_default();
            format!("the interface {} ({index}, {state})", String::from_utf8_lossy(&name))
        }
        RTM_NEWROUTE => {
            const KINDS: [&str; 9] = [
                "unspecified",
                "unicast",
                "local",
                "broadcast",
                "anycast",
                "multicast",
                "blackhole",
                "unreachable",
                "prohibit",
            ];
            let kind = KINDS.get(usize::from(byte(7))).copied().unwrap_or("unknown");
            let mut text =
                format!("the {family} route {kind} {}/{} table {table}", address(byte(0), value(RTA_DST)), byte(1));
            if let Some(gateway) = value(RTA_GATEWAY) {
                text += &format!(" via {}", address(byte(0), Some(gateway)));
            }
            match number(RTA_OIF) {
                Some(LOOPBACK) => text += " dev lo",
                Some(index) => text += &format!(" dev {index}"),
                None => {}
            }
            text
        }
        RTM_NEWRULE => format!("the {family} routing rule {} table {table}", number(FRA_PRIORITY).unwrap_or_default()),
        _ => "something unknown".to_owned(),
    }
}

fn address(family: u8, bytes: Option<&[u8]>) -> String {
    let v4 = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).to_string());
    let v6 = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).to_string());
    match bytes {
        // No attribute: all addresses.
        None if family == libc::AF_INET6 as u8 => "::".to_owned(),
        None => "0.0.0.0".to_owned(),
        Some(bytes) => v4(bytes).or_else(|| v6(bytes)).unwrap_or_else(|| "?".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = [&(4 + value.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn route(destination: &[u8], length: u8, used: u8) -> Vec<u8> {
        let header = [libc::AF_INET as u8, length, 0, 0, RT_TABLE_LOCAL, 4, 254, 2, 0, 0, 0, 0];
        let mut bytes = header.to_vec();
        if !destination.is_empty() {
            bytes.extend(attribute(RTA_DST, destination));
        }
        bytes.extend(attribute(RTA_OIF, &LOOPBACK.to_ne_bytes()));
        bytes.extend(attribute(RTA_CACHEINFO, &[used; 32]));
        bytes
    }

    fn items(routes: &[Vec<u8>]) -> Items {
        let mut items = Items::new();
        for route in routes {
            *items.entry((RTM_NEWROUTE, compared(RTM_NEWROUTE, route).unwrap())).or_default() += 1;
        }
        items
    }

    #[test]
    fn a_route_that_was_used_is_the_same_and_one_that_is_gone_is_named() {
        let all = items(&[route(&[], 0, 0), route(&[127, 0, 0, 0], 8, 0)]);
        assert_eq!(difference(&all, &items(&[route(&[127, 0, 0, 0], 8, 9), route(&[], 0, 9)])), None);
        let one = items(&[route(&[127, 0, 0, 0], 8, 0)]);
        assert_eq!(difference(&all, &one).unwrap(), "the IPv4 route local 0.0.0.0/0 table local dev lo is gone");
        assert_eq!(difference(&one, &all).unwrap(), "the IPv4 route local 0.0.0.0/0 table local dev lo is new");
        let twice = items(&[route(&[], 0, 0), route(&[], 0, 0), route(&[127, 0, 0, 0], 8, 0)]);
        assert!(difference(&all, &twice).is_some());
    }

    #[test]
    fn a_copy_for_one_destination_is_no_route() {
        let mut copy = route(&[10, 0, 0, 1], 32, 0);
        copy[8..12].copy_from_slice(&RTM_F_CLONED.to_ne_bytes());
        assert_eq!(compared(RTM_NEWROUTE, &copy), None);
    }

    #[test]
    fn an_interface_is_named_and_its_counters_are_not_compared() {
        let link = |flags: u32, carrier: u8| {
            let mut bytes = [&[0, 0, 4, 3][..], &7u32.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4]].concat();
            bytes.extend(attribute(IFLA_IFNAME, b"dummy0\0"));
            bytes.extend(attribute(35, &[carrier; 4]));
            compared(RTM_NEWLINK, &bytes).unwrap()
        };
        assert_eq!(link(0, 1), link(0, 2));
        assert_eq!(in_words(RTM_NEWLINK, &link(0, 1)), "the interface dummy0 (7, down)");
        assert_eq!(in_words(RTM_NEWLINK, &link(IFF_UP, 1)), "the interface dummy0 (7, up)");
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(kind in 15u16..35, bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(bytes) = compared(kind, &bytes) {
                let _ = in_words(kind, &bytes);
            }
        }
    }
}
