"""Runs a Python handler: fetches events from the Lambda Runtime API, posts back what the handler returns.

In: AWS_LAMBDA_RUNTIME_API, _HANDLER and LAMBDA_TASK_ROOT. Out: one response or error for each event.
"""
import _socket  # Not socket or http.client: they would cost 10 and 80 ms of every cold start.
import importlib
import json
import os
import sys
import time

PREFIX = "/2018-06-01/runtime/"


class ApiGone(Exception):
    """The runtime API no longer answers: nobody is left to work for."""


class RuntimeApi:
    """One keep-alive connection. The server always sends Content-Length, and /next may take forever."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self._host = address
        self._buffer = bytearray()
        self._socket = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        self._socket.connect((host, int(port)))
        self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)

    def get(self, path):
        return self._exchange("GET", path, "", b"")

    def post(self, path, body, error_type=None):
        extra = "Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        if error_type:
            extra += "Lambda-Runtime-Function-Error-Type: %s\r\n" % error_type
        return self._exchange("POST", path, extra, body)

    def _exchange(self, method, path, extra, body):
        head = "%s %s%s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (method, PREFIX, path, self._host, extra)
        try:
            self._socket.sendall(head.encode("latin-1") + body)
            return self._receive()
        except OSError as error:
            raise ApiGone() from error

    def _receive(self):
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end >= 0:
                break
            self._fill()
        status, *fields = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        headers = {}
        for field in fields:
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            self._fill()
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return int(status.split(" ", 2)[1]), headers, body

    def _fill(self):
        data = self._socket.recv(65536)
        if not data:
            raise ApiGone()
        self._buffer += data


class Fault(Exception):
    """A failure that has one of Lambda's names."""

    def __init__(self, error_type, message):
        super().__init__(message)
        self.error_type = error_type


class Context:
    """What Lambda calls the context object."""

    identity = None
    client_context = None

    def __init__(self, headers):
        env = os.environ.get
        self.aws_request_id = headers["lambda-runtime-aws-request-id"]
        self.invoked_function_arn = headers.get("lambda-runtime-invoked-function-arn", "")
        self.function_name = env("AWS_LAMBDA_FUNCTION_NAME")
        self.function_version = env("AWS_LAMBDA_FUNCTION_VERSION")
        self.memory_limit_in_mb = env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.log_group_name = env("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = env("AWS_LAMBDA_LOG_STREAM_NAME")
        self._deadline_ms = int(headers.get("lambda-runtime-deadline-ms", "0"))

    def get_remaining_time_in_millis(self):
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def log(self, message):
        sys.stdout.write(str(message))


def load(handler):
    """The function that `module.function` or `folder/module.function` names."""
    path, dot, name = handler.rpartition(".")
    if not (dot and path and name):
        raise Fault("Runtime.MalformedHandlerName", "Bad handler %r: expected module.function" % handler)
    try:
        module = importlib.import_module(path.replace("/", "."))
    except ImportError as error:
        raise Fault("Runtime.ImportModuleError", "Unable to import module %r: %s" % (path, error)) from error
    except SyntaxError as error:
        raise Fault("Runtime.UserCodeSyntaxError", "Syntax error in module %r: %s" % (path, error)) from error
    try:
        return getattr(module, name)
    except AttributeError:
        raise Fault("Runtime.HandlerNotFound", "Handler %r missing on module %r" % (name, path)) from None


def describe(error, request_id=None):
    """The error as Lambda's JSON, and its type. Also written to stderr, for whoever reads the function's output."""
    import traceback

    kind = error.error_type if isinstance(error, Fault) else type(error).__name__
    cause = error.__cause__ if isinstance(error, Fault) and error.__cause__ else error
    try:
        message = str(error)
    except Exception:
        message = "<the error has no readable message>"
    # Our own frames and the import machinery's say nothing about the function.
    ours = (__file__, importlib.__file__)
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if f.filename not in ours and "<frozen" not in f.filename]
    stack = traceback.format_list(frames)
    say("[ERROR] %s: %s\n%s" % (kind, message, "".join(stack)))
    report = {"errorMessage": message, "errorType": kind, "stackTrace": stack}
    if request_id:
        report["requestId"] = request_id
    return json.dumps(report).encode(), kind


def say(text):
    try:
        sys.stderr.write(text.rstrip("\n") + "\n")
    except (OSError, ValueError, AttributeError, UnicodeError):
        pass


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


def marshal(result):
    try:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Fault("Runtime.MarshalError", "Unable to marshal response: %s" % error) from None
    try:
        return text.encode()
    except UnicodeEncodeError:  # A lone surrogate, which only JSON's escapes can carry.
        return json.dumps(result, allow_nan=False).encode()


def unmarshal(event):
    try:
        return json.loads(event)
    except (ValueError, RecursionError) as error:
        raise Fault("Runtime.UnmarshalError", "Unable to unmarshal input: %s" % error) from None


def serve(api, handler):
    while True:
        status, headers, event = api.get("invocation/next")
        if status != 200:
            raise ApiGone()
        context = Context(headers)
        path = "invocation/%s/" % context.aws_request_id
        try:
            result = marshal(handler(unmarshal(event), context))
        except Exception as error:
            body, kind = describe(error, context.aws_request_id)
            flush()
            # A raised exception's own name is the function's; the header takes only names like Function.Name.
            api.post(path + "error", body, kind if kind.startswith("Runtime.") else None)
        else:
            flush()
            api.post(path + "response", result)


def main():
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    # In place of the folder of this file.
    sys.path[0] = os.environ["LAMBDA_TASK_ROOT"]
    try:
        api = RuntimeApi(os.environ["AWS_LAMBDA_RUNTIME_API"])
        try:
            handler = load(os.environ.get("_HANDLER", ""))
        except Exception as error:
            body, kind = describe(error)
            flush()
            api.post("init/error", body, kind if kind.startswith("Runtime.") else None)
            sys.exit(1)
        serve(api, handler)
    except (ApiGone, OSError) as error:
        say("The runtime API is gone: %r" % error)
        flush()
        # Not sys.exit: a thread of the function must not keep the process alive.
        os._exit(1)


if __name__ == "__main__":
    main()
