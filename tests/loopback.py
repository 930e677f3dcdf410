"""A web server on 127.0.0.1 that misbehaves on request, for downloads to be tested against."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Server:
    """What it serves and how; may be changed while it runs."""

    folder: Path
    url: str = ""
    ranges: bool = True
    cuts: dict[str, int] = field(default_factory=dict)  #: file -> bytes of a body after which the connection is cut
    cut_times: int = 1  #: how many answers of a file are cut
    statuses: dict[str, list[int]] = field(default_factory=dict)  #: file -> errors to answer with first
    etags: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/octet-stream"
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  #: method, file, Range


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD, with ranges."""

    state: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        state, name = self.state, self.path.lstrip("/")
        wanted = self.headers.get("Range")
        state.requests.append((self.command, name, wanted))
        if state.statuses.get(name):
            return self._end(state.statuses[name].pop(0))
        path = state.folder / name
        if not path.is_file():
            return self._end(404)
        data, etag = path.read_bytes(), state.etags.get(name, '"1"')
        start = 0
        if wanted and state.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return self._end(416, {"Content-Range": f"bytes */{len(data)}"})
        body = data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for key, value in {"Content-Length": len(body), "ETag": etag, "Content-Type": state.content_type}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if not with_body:
            return None
        if name in state.cuts and state.cut_times > 0:
            state.cut_times -= 1
            body = body[: state.cuts[name]]
            self.close_connection = True
        self.wfile.write(body)
        return None

    def _end(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": "0"} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve a folder until the block ends."""
    state = Server(folder)
    handler = type("BoundHandler", (Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
