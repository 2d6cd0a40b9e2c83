"""A web server on this machine whose faults can be chosen, for what is fetched from others."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """A file, and how the server misbehaves.

    cuts: after how many bytes of the body each of the next answers ends, the connection closed. states: statuses of the next
    answers, before the file is given. length: whether its size is announced, or which is. ranges: whether a part can be
    asked for. blind: the part is given although If-Range names another version. chunked: the end is marked, the size is not
    announced. gate: waited for after the first bytes. headers: more of them.
    """

    content: bytes
    etag: str | None = '"one"'
    modified: str | None = None
    cuts: list[int] = field(default_factory=list)
    states: list[int] = field(default_factory=list)
    length: bool | int = True
    ranges: bool = True
    blind: bool = False
    chunked: bool = False
    gate: threading.Event | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Web:
    """Serves ``files`` by path until ``stop``.

    asked: the ranges that were asked for, by order, None for the whole file. validators, authorizations:
    what came with them.
    """

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[str | None] = []
        self.validators: list[str | None] = []
        self.authorizations: list[str | None] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def put(self, name: str, content: bytes, **faults: object) -> str:
        """Serve a file; returns its address."""
        self.files[f"/{name}"] = Served(content, **faults)
        return f"http://{self.host}/{name}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One GET."""
        self.asked.append(request.headers["Range"])
        self.validators.append(request.headers["If-Range"])
        self.authorizations.append(request.headers["Authorization"])
        served = self.files.get(request.path.partition("?")[0])
        request.close_connection = True
        if served is None or served.states:
            request.send_response(404 if served is None else served.states.pop(0))
            for name, value in ({} if served is None else served.headers).items():
                request.send_header(name, value)
            request.end_headers()
            return
        start = self._start(request, served)
        rest = served.content[start:]
        if start >= len(served.content) > 0:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(served.content)}")
            request.end_headers()
            return
        request.protocol_version = "HTTP/1.1" if served.chunked else "HTTP/1.0"
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
        for name, value in (("ETag", served.etag), ("Last-Modified", served.modified), *served.headers.items()):
            if value is not None:
                request.send_header(name, value)
        if served.chunked:
            request.send_header("Transfer-Encoding", "chunked")
            request.send_header("Connection", "close")
        elif served.length is not False:
            length = len(rest) if served.length is True else served.length
            request.send_header("Content-Length", str(length))
        request.end_headers()
        cut = served.cuts.pop(0) if served.cuts else len(rest)
        if served.gate is not None:
            request.wfile.write(rest[: cut // 2])
            request.wfile.flush()
            served.gate.wait(30)
            rest, cut = rest[cut // 2 :], cut - cut // 2
        if served.chunked:
            end = b"\r\n0\r\n\r\n" if cut == len(rest) else b""
            request.wfile.write(f"{len(rest):x}\r\n".encode() + rest[:cut] + end)
        else:
            request.wfile.write(rest[:cut])

    @staticmethod
    def _start(request: BaseHTTPRequestHandler, served: Served) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", request.headers["Range"] or "")
        if match is None or not served.ranges:
            return 0
        wanted = request.headers["If-Range"]
        is_same = wanted is None or wanted in (served.etag, served.modified)
        return int(match[1]) if is_same or served.blind else 0
