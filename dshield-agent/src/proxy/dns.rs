//! DNS for functions: whitelisted names get a synthetic address, everything else NXDOMAIN. No question is
//! ever passed on: what a function writes into a name stays here.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dshield_common::log::entry::{Attempt, Dns, Event, Refused};
use dshield_common::name::HostName;
use dshield_common::policy::FunctionPolicy;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record as Answer, RecordType};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg};
use std::os::fd::AsRawFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UdpSocket};

use super::names::{Names, Synthetic};
use super::{Context, NO_RULE};

/// Seconds a function may keep an answer. The address stays valid as long as the instance lives.
const TTL: u32 = 60;
/// The largest datagram that is promised to be taken; what is sent stays below 512 bytes, whatever a client offers.
const MAX_PAYLOAD: u16 = 1232;
/// How long a DNS connection may be silent.
const TCP_IDLE: Duration = Duration::from_secs(10);

/// What to do with a question.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) reply: Option<Vec<u8>>,
    event: Option<Event>,
    /// What it would have been refused for, where the policy only observes.
    observed: Option<Refused>,
}

/// What one instance's questions are answered from.
#[derive(Clone, Copy)]
pub(super) struct Zone<'c> {
    pub(super) policy: &'c FunctionPolicy,
    pub(super) names: &'c Names,
    /// Whether the instance has IPv6: an address that it cannot reach would only cost it time.
    pub(super) ipv6: bool,
}

impl Zone<'_> {
    /// Answers one message.
    pub(super) fn answer(self, question: &[u8]) -> Verdict {
        let Ok(message) = Message::from_vec(question) else {
            // Not even an id to answer to. Counted all the same: it is something that wanted out.
            let event = Some(refused("dns_malformed", "a message that is not DNS"));
            return Verdict { reply: None, event, observed: None };
        };
        let Judged { code, answer, event, observed } = self.judge(&message);
        let mut reply = Message::response(message.metadata.id, message.metadata.op_code);
        reply.metadata.recursion_desired = message.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.response_code = code;
        if let Some(query) = message.queries.first() {
            reply.add_query(query.clone());
        }
        if let Some(answer) = answer {
            reply.add_answer(answer);
        }
        if message.edns.is_some() {
            // Its options are nobody's: none is read, passed on or sent back (RFC 6891, section 6.1.2).
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_PAYLOAD).set_version(0);
            reply.set_edns(edns);
        }
        Verdict { reply: reply.to_vec().ok(), event: Some(event), observed }
    }

    fn judge(self, message: &Message) -> Judged {
        let metadata = &message.metadata;
        let query = match message.queries.as_slice() {
            [query] if metadata.message_type == MessageType::Query && metadata.op_code == OpCode::Query => query,
            _ => {
                let event = refused("dns_unsupported", "a DNS message other than one standard query");
                return Judged::without_answer(ResponseCode::NotImp, event);
            }
        };
        if let Some(version) = message.edns.as_ref().map(Edns::version).filter(|version| *version != 0) {
            let event = refused("dns_unsupported", &format!("a DNS message with EDNS version {version}"));
            return Judged::without_answer(ResponseCode::BADVERS, event);
        }
        let shown = shown(query);
        let not_allowed = |name: Option<&HostName>| {
            let host = name.map(ToString::to_string);
            let attempt = host.map(|host| Attempt { host, port: None, method: None, path: None });
            Refused { attempt, ..refusal("name_not_allowed", &format!("dns {shown}")) }
        };
        let name = host_name(query);
        let (name, observed) = match name.as_ref().map(|name| (name, self.policy.look_up(name))) {
            Some((name, Ok(would_be))) => {
                let observed = would_be.map(|_| Refused { let_through: true, ..not_allowed(Some(name)) });
                (name, observed)
            }
            _ => {
                let refused = Event::Refused(not_allowed(name.as_ref()));
                return Judged::without_answer(ResponseCode::NXDomain, refused);
            }
        };
        let qtype = query.query_type();
        let wanted = match (query.query_class(), qtype) {
            (DNSClass::IN, RecordType::A) => true,
            (DNSClass::IN, RecordType::AAAA) => self.ipv6,
            // The name exists, without such a record: no HTTPS record with other ports and keys.
            _ => false,
        };
        if !wanted {
            let event = Event::Dns(dns(name, qtype, None));
            return Judged { observed, ..Judged::without_answer(ResponseCode::NoError, event) };
        }
        let Some(Synthetic { v4, v6 }) = self.names.addresses(name) else {
            let event = refused("names_exhausted", &format!("dns {shown}: all synthetic addresses are in use"));
            return Judged::without_answer(ResponseCode::ServFail, event);
        };
        let (data, address) = match qtype {
            RecordType::AAAA => (RData::AAAA(AAAA(v6)), IpAddr::from(v6)),
            _ => (RData::A(A(v4)), v4.into()),
        };
        let answer = Answer::from_rdata(query.name().clone(), TTL, data);
        let event = Event::Dns(dns(name, qtype, Some(address)));
        Judged { code: ResponseCode::NoError, answer: Some(answer), event, observed }
    }
}

/// What a question comes to.
struct Judged {
    code: ResponseCode,
    answer: Option<Answer>,
    event: Event,
    observed: Option<Refused>,
}

impl Judged {
    fn without_answer(code: ResponseCode, event: Event) -> Self {
        Self { code, answer: None, event, observed: None }
    }
}

fn host_name(query: &Query) -> Option<HostName> {
    // Label by label: a label may hold any byte, a dot among them.
    let mut text = Vec::new();
    for label in query.name().iter() {
        if label.contains(&b'.') {
            return None;
        }
        if !text.is_empty() {
            text.push(b'.');
        }
        text.extend(label);
    }
    HostName::from_bytes(&text).ok()
}

fn shown(query: &Query) -> String {
    let name = query.name().to_ascii();
    let name: String = name.chars().take(255).filter(char::is_ascii_graphic).collect();
    format!("{} {name}", query.query_type())
}

fn dns(name: &HostName, qtype: RecordType, answer: Option<IpAddr>) -> Dns {
    Dns { name: name.to_string(), qtype: qtype.to_string(), answer: answer.map(|address| address.to_string()) }
}

fn refused(reason: &str, detail: &str) -> Event {
    Event::Refused(refusal(reason, detail))
}

fn refusal(reason: &str, detail: &str) -> Refused {
    Refused {
        layer: "dns".into(),
        reason: reason.into(),
        detail: detail.into(),
        rule: NO_RULE.into(),
        let_through: false,
        connection: None,
        attempt: None,
        process: None,
        count: None,
    }
}

impl Context {
    async fn answer_dns(&self, question: &[u8]) -> Option<Vec<u8>> {
        let zone = Zone { policy: self.instance.policy(), names: &self.names, ipv6: self.ipv6 };
        let Verdict { reply, event, observed } = zone.answer(question);
        if let Some(refused) = observed {
            self.refusals.report(refused);
        }
        match event {
            Some(Event::Refused(refused)) => self.refusals.report(refused),
            Some(Event::Dns(dns)) => self.refusals.answered(dns).await,
            _ => {}
        }
        reply
    }
}

/// Answers datagrams, each from the address it was sent to.
pub(super) async fn serve_udp(socket: UdpSocket, context: Arc<Context>) {
    let mut buffer = vec![0; 4096];
    loop {
        let received = socket.async_io(Interest::READABLE, || receive(&socket, &mut buffer)).await;
        let (length, client, asked) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(instance = context.instance.id(), "dns: {error}");
                // An error that stays must not take a core.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if let Some(reply) = context.answer_dns(&buffer[..length]).await {
            // One UDP answer is small: one question, one address. A full send buffer drops it, as UDP does.
            let _ = socket.async_io(Interest::WRITABLE, || send(&socket, &reply, client, asked)).await;
        }
    }
}

/// Which local address a datagram was sent to.
#[derive(Clone, Copy, Debug)]
enum Asked {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SockaddrStorage, Option<Asked>)> {
    let mut control = cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let client = message.address.ok_or(io::ErrorKind::InvalidData)?;
    let asked = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Asked::V4(info)),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Asked::V6(info)),
        _ => None,
    });
    Ok((message.bytes, client, asked))
}

fn send(socket: &UdpSocket, reply: &[u8], client: SockaddrStorage, asked: Option<Asked>) -> io::Result<usize> {
    // The source is the address that was asked (ip(7), ipv6(7)), or the client would not take the answer.
    let (v4, v6);
    let control = match asked {
        Some(Asked::V4(info)) => {
            v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_addr, ipi_addr: info.ipi_addr };
            vec![ControlMessage::Ipv4PacketInfo(&v4)]
        }
        Some(Asked::V6(info)) => {
            v6 = libc::in6_pktinfo { ipi6_ifindex: 0, ..info };
            vec![ControlMessage::Ipv6PacketInfo(&v6)]
        }
        None => vec![],
    };
    let parts = [io::IoSlice::new(reply)];
    Ok(sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&client))?)
}

/// Answers a connection: messages with a length before each (RFC 1035, section 4.2.2).
pub(super) async fn serve_tcp(mut stream: TcpStream, _peer: SocketAddr, context: Arc<Context>) {
    let session = async {
        loop {
            let length = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await??;
            let mut question = vec![0; length.into()];
            tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut question)).await??;
            let Some(reply) = context.answer_dns(&question).await else { break };
            let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
            stream.write_u16(length).await?;
            stream.write_all(&reply).await?;
        }
        io::Result::Ok(())
    };
    if let Err(error) = session.await {
        tracing::trace!("dns over tcp: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dshield_common::policy::{Deployment, Mode};
    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    fn policy() -> Arc<FunctionPolicy> {
        let text = "[[function]]\nname = \"f\"\nruntime = \"python3\"\ncode = \"f\"\n\
                    [[function.egress]]\nhost = \"api.example.com\"\n[[function.egress]]\nhost = \"*.w.example\"\n";
        Deployment::parse(text, &mut |_| unreachable!()).unwrap().policy.functions[0].clone()
    }

    fn question(name: &str, qtype: RecordType) -> Message {
        let mut question = Message::query();
        question.metadata.id = 77;
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), qtype));
        question
    }

    fn verdict(question: &[u8], ipv6: bool) -> Verdict {
        Zone { policy: &policy(), names: &Names::default(), ipv6 }.answer(question)
    }

    fn reply(question: &Message, ipv6: bool) -> (Message, Option<Event>) {
        let Verdict { reply, event, .. } = verdict(&question.to_vec().unwrap(), ipv6);
        (Message::from_vec(&reply.unwrap()).unwrap(), event)
    }

    fn ask(name: &str, qtype: RecordType) -> (Message, Option<Event>) {
        reply(&question(name, qtype), true)
    }

    #[test]
    fn a_whitelisted_name_gets_a_synthetic_address() {
        for name in ["api.example.com.", "API.Example.COM.", "a.b.w.example."] {
            let (reply, event) = ask(name, RecordType::A);
            assert_eq!(reply.metadata.id, 77);
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            let RData::A(A(address)) = &reply.answers[0].data else { panic!("no A record") };
            assert_eq!(address.octets()[..2], [198, 18]);
            assert!(matches!(event, Some(Event::Dns(_))));
        }
    }

    #[test]
    fn a_name_that_is_not_whitelisted_does_not_exist() {
        for name in ["attacker.example.", "w.example.", "73656372.attacker.example.", "xapi.example.com.", "."] {
            let (reply, event) = ask(name, RecordType::A);
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
            assert!(reply.answers.is_empty());
            assert!(matches!(event, Some(Event::Refused(_))), "{name}");
        }
    }

    #[test]
    fn any_host_name_exists_where_the_policy_only_observes() {
        let policy = FunctionPolicy { mode: Mode::Observe, ..FunctionPolicy::clone(&policy()) };
        let names = Names::default();
        let ask = |name| {
            let asked = question(name, RecordType::A).to_vec().unwrap();
            let verdict = Zone { policy: &policy, names: &names, ipv6: true }.answer(&asked);
            (Message::from_vec(&verdict.reply.unwrap()).unwrap().metadata.response_code, verdict.observed)
        };
        assert_eq!(ask("api.example.com."), (ResponseCode::NoError, None));
        let (code, observed) = ask("attacker.example.");
        let observed = observed.unwrap();
        assert_eq!(
            (code, observed.reason.as_str(), observed.let_through),
            (ResponseCode::NoError, "name_not_allowed", true)
        );
        assert_eq!(observed.attempt.unwrap().host, "attacker.example");
        assert_eq!(ask("."), (ResponseCode::NXDomain, None), "what is no host name stays unknown");
    }

    #[test]
    fn a_label_with_a_dot_in_it_is_not_taken_for_two() {
        let (reply, _) = ask(r"api\.example.com.", RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    }

    #[test]
    fn other_record_types_of_a_whitelisted_name_are_empty() {
        for qtype in [RecordType::HTTPS, RecordType::SVCB, RecordType::TXT, RecordType::ANY] {
            let (reply, _) = ask("api.example.com.", qtype);
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            assert!(reply.answers.is_empty(), "{qtype}");
        }
    }

    #[test]
    fn an_ipv6_address_is_answered_only_where_there_is_ipv6() {
        let asked = question("api.example.com.", RecordType::AAAA);
        let (with, event) = reply(&asked, true);
        let RData::AAAA(AAAA(address)) = &with.answers[0].data else { panic!("no AAAA record") };
        assert!(dshield_common::address::is_synthetic((*address).into()));
        assert!(matches!(event, Some(Event::Dns(dns)) if dns.answer == Some(address.to_string())));
        let (without, _) = reply(&asked, false);
        assert_eq!((without.metadata.response_code, without.answers.len()), (ResponseCode::NoError, 0));
    }

    #[test]
    fn edns_is_answered_in_its_first_version_only_and_without_its_options() {
        use hickory_proto::rr::rdata::opt::EdnsOption;
        let mut asked = question("api.example.com.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(65535).options_mut().insert(EdnsOption::Unknown(65001, b"the data".to_vec()));
        asked.set_edns(edns.clone());
        let (with, _) = reply(&asked, true);
        let own = with.edns.as_ref().unwrap();
        assert_eq!((own.version(), own.max_payload(), own.options().as_ref().len()), (0, 1232, 0));
        assert_eq!(with.answers.len(), 1);
        assert!(ask("api.example.com.", RecordType::A).0.edns.is_none(), "and only where it was used");

        asked.set_edns(edns.set_version(1).clone());
        let (other, event) = reply(&asked, true);
        // The number has two names.
        assert_eq!((u16::from(other.metadata.response_code), other.answers.len()), (16, 0));
        assert_eq!(other.edns.unwrap().version(), 0);
        assert!(matches!(event, Some(Event::Refused(refused)) if refused.reason == "dns_unsupported"));
    }

    #[test]
    fn the_longest_answer_fits_the_smallest_datagram() {
        let label = "a".repeat(63);
        let name = format!("{label}.{label}.{label}.{}.w.example.", "a".repeat(51));
        let mut asked = question(&name, RecordType::AAAA);
        asked.set_edns(Edns::new());
        let reply = verdict(&asked.to_vec().unwrap(), true).reply.unwrap();
        assert_eq!((name.len(), Message::from_vec(&reply).unwrap().answers.len()), (254, 1));
        assert!(reply.len() <= 512, "{} bytes", reply.len());
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = verdict(&bytes, true);
        }
    }
}
