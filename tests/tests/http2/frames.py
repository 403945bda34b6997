# HTTP/2 by hand (RFC 9113), so that nothing in between repairs what is sent. Runs inside the function, after app.py.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY = 1, 4, 8, 32
ACK = 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b"", length=None):
    length = len(payload) if length is None else length
    return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, prefix):
    """RFC 7541, section 5.1, with nothing above the prefix."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([value])
    rest, value = [most], value - most
    while value >= 128:
        rest.append(value % 128 + 128)
        value //= 128
    return bytes(rest + [value])


def literal(name, value, first=0):
    """A field that is not indexed; `first` 0x40 adds it to the dynamic table."""
    name, value = [text if isinstance(text, bytes) else text.encode("latin-1") for text in (name, value)]
    return bytes([first]) + integer(len(name), 7) + name + integer(len(value), 7) + value


def block(*fields):
    return b"".join(literal(name, value) for name, value in fields)


def pseudo(method="GET", **others):
    """The four that a request has, in order; one that is given as None is left out."""
    fields = {"method": method, "scheme": "https", "authority": event["host"], "path": event["path"]} | others
    return [(":" + name, value) for name, value in fields.items() if value is not None]


def request(stream, *fields, flags=END_STREAM | END_HEADERS, **others):
    return frame(HEADERS, flags, stream, block(*pseudo(**others), *fields))


def settings(*pairs):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def opened(host):
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    stream = socket.create_connection((host, 443), timeout=20)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tls = context.wrap_socket(stream, server_hostname=host)
    assert tls.selected_alpn_protocol() == "h2", tls.selected_alpn_protocol()
    return tls


class Seen:
    """What the other side said."""

    def __init__(self, stream):
        self.stream, self.rest = stream, b""
        self.goaway, self.resets, self.statuses, self.ended, self.pongs, self.closed = None, {}, {}, set(), 0, False

    def read(self, patience, enough):
        deadline = time.time() + patience
        while not self.closed and not enough(self):
            self.stream.settimeout(max(deadline - time.time(), 0.001))
            try:
                more = self.stream.recv(65536)
            except TimeoutError:
                return
            except OSError:
                more = b""
            self.closed = not more
            self.rest += more
            while len(self.rest) >= 9 and len(self.rest) >= 9 + int.from_bytes(self.rest[:3], "big"):
                length = int.from_bytes(self.rest[:3], "big")
                kind, flags = self.rest[3], self.rest[4]
                stream = int.from_bytes(self.rest[5:9], "big")
                self.take(kind, flags, stream, self.rest[9:9 + length])
                self.rest = self.rest[9 + length:]

    def take(self, kind, flags, stream, payload):
        if kind == GOAWAY:
            code = int.from_bytes(payload[4:8], "big")
            self.goaway = self.goaway or code
        elif kind == RST_STREAM:
            self.resets[str(stream)] = int.from_bytes(payload, "big")
        elif kind == HEADERS and str(stream) not in self.statuses:
            self.statuses[str(stream)] = status(payload)
        elif kind == PING and flags & ACK:
            self.pongs += 1
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            self.ended.add(stream)

    def answer(self):
        return {
            "goaway": self.goaway, "resets": self.resets, "statuses": self.statuses, "closed": self.closed,
            "pong": self.pongs > 0,
        }


def status(payload):
    """The status where it is the first field, as everybody writes it: 1 for one that is not in the static table."""
    while payload and payload[0] & 0xE0 == 0x20:
        payload = payload[1:]
    return {0x88: 200, 0x89: 204, 0x8C: 400, 0x8D: 404, 0x8E: 500}.get(payload[0], 1)


def attempt(data, streams=(1,)):
    """Sends `data`; answers what came of it. Whether the connection goes on shows a PING."""
    stream = opened(event["host"])
    seen = Seen(stream)
    failure(stream.sendall, data)

    def done(seen):
        return seen.goaway or all(one in seen.ended or str(one) in seen.resets for one in streams)

    seen.read(20, done)
    if not seen.closed and not seen.goaway:
        failure(stream.sendall, frame(PING, 0, 0, b"12345678"))
    seen.read(20, lambda seen: (seen.pongs and done(seen)) or seen.goaway)
    return seen.answer()
