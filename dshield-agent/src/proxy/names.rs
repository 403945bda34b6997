//! Synthetic addresses: each whitelisted name that an instance asks for gets a number of its own, and with it an IPv4
//! and an IPv6 address, so that a later connection to either carries the name.
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use dshield_common::address::{SYNTHETIC_V4, SYNTHETIC_V6};
use dshield_common::name::HostName;

/// How many addresses the IPv4 range has. Of the IPv6 range as many are used.
const SIZE: u32 = 1 << (32 - SYNTHETIC_V4.1);
/// The first ones are not given away: the name server's address is among them.
const RESERVED: u32 = 16;

/// The names of one instance: at most [`SIZE`], of at most 253 bytes each.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    numbers: HashMap<HostName, u32>,
    /// By number, without the reserved ones. The text is the same as in `numbers`.
    names: Vec<HostName>,
}

/// The addresses of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Synthetic {
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl Synthetic {
    fn of(number: u32) -> Self {
        let v4 = Ipv4Addr::from(u32::from(SYNTHETIC_V4.0) + number);
        let v6 = Ipv6Addr::from(u128::from(SYNTHETIC_V6.0) + u128::from(number));
        Self { v4, v6 }
    }
}

/// The number of a synthetic address; anything for another.
fn number_of(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_sub(u32::from(SYNTHETIC_V4.0)),
        IpAddr::V6(v6) => u128::from(v6).checked_sub(u128::from(SYNTHETIC_V6.0))?.try_into().ok(),
    }
}

impl Names {
    /// The addresses of `name`, the same each time; `None` when the range is used up.
    pub(super) fn addresses(&self, name: &HostName) -> Option<Synthetic> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = tables.numbers.get(name) {
            return Some(Synthetic::of(*number));
        }
        let number = RESERVED + u32::try_from(tables.names.len()).ok()?;
        if number >= SIZE {
            return None;
        }
        tables.names.push(name.clone());
        tables.numbers.insert(name.clone(), number);
        Some(Synthetic::of(number))
    }

    /// The name that has `address`.
    pub(super) fn name(&self, address: IpAddr) -> Option<HostName> {
        let index = number_of(address)?.checked_sub(RESERVED)?;
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.names.get(usize::try_from(index).ok()?).cloned()
    }
}

#[cfg(test)]
mod tests {
    use dshield_common::address::is_synthetic;

    use super::*;

    fn host(name: &str) -> HostName {
        HostName::parse(name).unwrap()
    }

    #[test]
    fn a_name_keeps_its_addresses_and_each_of_them_its_name() {
        let names = Names::default();
        let a = names.addresses(&host("a.example")).unwrap();
        let b = names.addresses(&host("b.example")).unwrap();
        assert!(a.v4 != b.v4 && a.v6 != b.v6);
        assert_eq!(names.addresses(&host("a.example")), Some(a));
        for address in [IpAddr::from(b.v4), b.v6.into()] {
            assert_eq!(names.name(address), Some(host("b.example")));
            assert!(is_synthetic(address));
        }
    }

    #[test]
    fn an_address_that_was_not_given_has_no_name() {
        let names = Names::default();
        let given = names.addresses(&host("a.example")).unwrap();
        let next =
            [IpAddr::from(Ipv4Addr::from(u32::from(given.v4) + 1)), Ipv6Addr::from(u128::from(given.v6) + 1).into()];
        let far = Ipv6Addr::from(u128::from(given.v6) + (1 << 32));
        let others = ["198.18.0.1", "0.0.0.0", "255.255.255.255", "::", "::1", "::ffff:198.18.0.16", "ffff::ffff"];
        let others = others.map(|text| text.parse().unwrap());
        for address in next.into_iter().chain(others).chain([far.into()]) {
            assert_eq!(names.name(address), None, "{address}");
        }
    }

    #[test]
    fn the_range_is_never_left_and_holds_a_hundred_thousand_names() {
        const { assert!(SIZE - RESERVED >= 100_000) };
        let names = Names::default();
        let mut last = Synthetic::of(0);
        for i in 0..SIZE - RESERVED {
            last = names.addresses(&host(&format!("n{i}.example"))).unwrap();
        }
        assert_eq!(last.v4, Ipv4Addr::new(198, 19, 255, 255));
        assert!(is_synthetic(last.v6.into()));
        assert_eq!(names.addresses(&host("one-more.example")), None);
        assert_eq!(
            names.addresses(&host(&format!("n{}.example", SIZE - RESERVED - 1))),
            Some(last),
            "what is there stays"
        );
    }
}
