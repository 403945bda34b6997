"""gRPC without generated code: bytes go in, bytes come out. As a function it calls; as a program it serves."""

import sys

METHODS = {"Unary": "unary_unary", "Download": "unary_stream", "Upload": "stream_unary", "Chat": "stream_stream"}


def handler(event, context):
    import grpc

    channel = grpc.secure_channel(event["host"], grpc.ssl_channel_credentials(open("/etc/ssl/certs/ca-certificates.crt", "rb").read()))
    call = lambda method: getattr(channel, METHODS[method])(f"/test.Echo/{method}")
    answer = {
        "unary": call("Unary")(b"hello", timeout=20).decode(),
        "download": [part.decode() for part in call("Download")(b"abc", timeout=20)],
        "upload": call("Upload")(iter([b"a", b"b", b"c"]), timeout=20).decode(),
        "chat": [part.decode() for part in call("Chat")(iter([b"x", b"y"]), timeout=20)],
    }
    for name, method in [("status", "/test.Echo/Fail"), ("refused", "/test.Other/Unary")]:
        try:
            channel.unary_unary(method)(b"", timeout=20)
        except grpc.RpcError as error:
            answer[name] = [error.code().name, error.details()]
    return answer


def serve(key, certificate):
    from concurrent import futures

    import grpc

    def fail(request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "said the server")

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(lambda request, _: request.upper()),
        "Download": grpc.unary_stream_rpc_method_handler(lambda request, _: (bytes([byte]) for byte in request)),
        "Upload": grpc.stream_unary_rpc_method_handler(lambda requests, _: b"".join(requests)),
        "Chat": grpc.stream_stream_rpc_method_handler(lambda requests, _: (part.upper() for part in requests)),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", handlers)])
    files = [open(path, "rb").read() for path in (key, certificate)]
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([tuple(files)]))
    server.start()
    print(port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(*sys.argv[1:])
