//! Synthetic addresses: each whitelisted name that an instance asks for gets one of its own, so that a
//! later connection to it carries the name.
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use dshield_common::name::HostName;

/// 198.18.0.0/15, set aside for benchmarks of interconnecting devices (RFC 2544): nobody's address.
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// How many addresses the range has.
const SIZE: u32 = 1 << 17;
/// The first ones are not given away: the name server's address is among them.
const RESERVED: u32 = 16;

/// The names of one instance.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    by_name: HashMap<HostName, Ipv4Addr>,
    by_index: Vec<HostName>,
}

impl Names {
    /// The address of `name`, the same each time; `None` when the range is used up.
    pub(super) fn address(&self, name: &HostName) -> Option<Ipv4Addr> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = tables.by_name.get(name) {
            return Some(*address);
        }
        let index = u32::try_from(tables.by_index.len()).ok()?;
        if index >= SIZE - RESERVED {
            return None;
        }
        let address = Ipv4Addr::from(FIRST + RESERVED + index);
        tables.by_index.push(name.clone());
        tables.by_name.insert(name.clone(), address);
        Some(address)
    }

    /// The name that has `address`.
    pub(super) fn name(&self, address: IpAddr) -> Option<HostName> {
        let IpAddr::V4(address) = address else { return None };
        let index = u32::from(address).checked_sub(FIRST + RESERVED)?;
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.by_index.get(usize::try_from(index).ok()?).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        HostName::parse(name).unwrap()
    }

    #[test]
    fn a_name_keeps_its_address_and_an_address_its_name() {
        let names = Names::default();
        let a = names.address(&host("a.example")).unwrap();
        let b = names.address(&host("b.example")).unwrap();
        assert_ne!(a, b);
        assert_eq!(names.address(&host("a.example")), Some(a));
        assert_eq!(names.name(b.into()), Some(host("b.example")));
    }

    #[test]
    fn an_address_that_was_not_given_has_no_name() {
        let names = Names::default();
        let given = names.address(&host("a.example")).unwrap();
        let next = Ipv4Addr::from(u32::from(given) + 1);
        for address in ["198.18.0.1".parse().unwrap(), next, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST] {
            assert_eq!(names.name(address.into()), None, "{address}");
        }
        assert_eq!(names.name("::1".parse().unwrap()), None);
    }

    #[test]
    fn the_range_is_never_left() {
        let names = Names::default();
        let mut last = Ipv4Addr::UNSPECIFIED;
        for i in 0..SIZE - RESERVED {
            last = names.address(&host(&format!("n{i}.example"))).unwrap();
        }
        assert_eq!(last, Ipv4Addr::new(198, 19, 255, 255));
        assert_eq!(names.address(&host("one-more.example")), None);
    }
}
