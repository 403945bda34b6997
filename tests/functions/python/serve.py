"""The handler of app.py behind plain HTTP: what an invocation costs without D-Shield. Prints its port."""

import http.server
import json
import socket

import app


class Invocation(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps(app.handler(event, None)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Server(http.server.HTTPServer):
    def get_request(self):
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address


server = Server(("127.0.0.1", 0), Invocation)
print(server.server_port, flush=True)
server.serve_forever()
