"""Does what its event says, with Python's own sockets, resolver and TLS."""

import http.client
import socket
import ssl


class Failed(Exception):
    """A step that did not work; the answer names it."""


def handler(event, context):
    try:
        return ACTIONS[event["do"]](event)
    except Failed as failed:
        step, cause = failed.args
        return {"failed": step, "why": f"{type(cause).__name__}: {cause}"}


def step(name, action, *arguments, **options):
    try:
        return action(*arguments, **options)
    except (OSError, http.client.HTTPException) as cause:
        raise Failed(name, cause) from cause


def endpoint(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def echo(event):
    return event


def fail(event):
    raise ValueError(event["message"])


def resolve(event):
    found = step("resolve", socket.getaddrinfo, event["name"], 443, type=socket.SOCK_STREAM)
    return {"addresses": sorted({entry[4][0] for entry in found})}


def tcp(event):
    with step("connect", socket.create_connection, endpoint(event["address"]), timeout=5) as stream:
        step("send", stream.sendall, event["send"].encode())
        received = step("receive", stream.recv, 4096)
        if not received:
            return {"failed": "receive", "why": "closed"}
        return {"received": received.decode(errors="replace")}


def udp(event):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        return {"sent": step("send", sender.sendto, event["send"].encode(), endpoint(event["address"]))}


def make_socket(event):
    with step("socket", socket.socket, event["family"], event["type"], event["protocol"]):
        return {"made": True}


def https(event):
    host = event["host"]
    address = endpoint(event["address"]) if "address" in event else (host, event.get("port", 443))
    found = step("resolve", socket.getaddrinfo, *address, type=socket.SOCK_STREAM)
    stream = step("connect", socket.create_connection, found[0][4][:2], timeout=10)
    context = ssl.create_default_context()
    stream = step("tls", context.wrap_socket, stream, server_hostname=event.get("sni", host))
    connection = http.client.HTTPConnection(host)
    connection.sock = stream
    headers = {"Host": event.get("host_header", host), **event.get("headers", {})}
    step("http", connection.request, event["method"], event["path"], event.get("body", ""), headers)
    response = step("http", connection.getresponse)
    return {"status": response.status, "body": step("http", response.read).decode(errors="replace")}


ACTIONS = {
    "echo": echo,
    "fail": fail,
    "resolve": resolve,
    "tcp": tcp,
    "udp": udp,
    "socket": make_socket,
    "https": https,
}
