//! Questions to the name server of an instance.
use std::sync::LazyLock;

use dshield_agent::proxy::fuzz::Dns;
use dshield_common::policy::Deployment;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::RData;

/// See [`crate::Target::words`].
pub const WORDS: &[&str] = &[
    "\u{3}api\u{7}example\0",
    "\u{7}example\0",
    "\0\u{1}\0\u{1}",
    "\0\u{1c}\0\u{1}",
    "\0\u{41}\0\u{1}",
    "\0\0\u{29}",
    "\u{1}\0\0\u{1}",
    "\u{c}",
];

/// `api.example` and everything below `w.example`.
static DNS: LazyLock<Dns> = LazyLock::new(|| {
    let text = "[[function]]\nname = \"f\"\nruntime = \"native\"\ncode = \"f\"\n\
                [[function.egress]]\nhost = \"api.example\"\n[[function.egress]]\nhost = \"*.w.example\"\n";
    let deployment = Deployment::parse(text, &mut |_| Err("there is none".into())).expect("it is a policy");
    Dns::new(deployment.policy.functions[0].clone())
});

/// The reply to a message.
///
/// # Panics
/// It is not well formed.
#[must_use]
pub fn answer(question: &[u8]) -> Option<Message> {
    DNS.answer(question).map(|reply| Message::from_vec(&reply).expect("a reply is well formed"))
}

/// A reply is well formed and answers the question that was asked; an address is only ever a synthetic one, for a name
/// that a rule allows.
///
/// # Panics
/// When that does not hold.
pub fn check(input: &[u8]) {
    let Some(reply) = answer(input) else { return };
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert_eq!(reply.metadata.id.to_be_bytes(), input[..2], "a reply to another question");
    assert!(reply.answers.len() <= 1, "{reply:?}");
    for answer in &reply.answers {
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        let name = answer.name.to_ascii().to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        assert!(name == "api.example" || name.ends_with(".w.example"), "{name} has an address");
        let synthetic = match &answer.data {
            RData::A(address) => matches!(address.0.octets(), [198, 18 | 19, ..]),
            RData::AAAA(address) => matches!(address.0.segments(), [0xfd64, 0x7368, 0x6965, 0x6c64, ..]),
            _ => false,
        };
        assert!(synthetic, "{answer:?} is no synthetic address");
    }
}
