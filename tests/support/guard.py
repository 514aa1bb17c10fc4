"""A door in front of an MLflow server, as a gateway with accounts would be: it lets in who shows what it expects."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

HOP = {"host", "content-length", "transfer-encoding", "connection", "content-encoding", "authorization"}


@dataclass
class Guard:
    """What it expects, and what it saw."""

    url: str = ""
    lets_in: set[str | None] = field(default_factory=set)
    """Values of the header Authorization; None: nobody in particular."""
    redirect: str = ""
    says: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Documents that it answers with by itself, by a part of the path."""
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    """Paths, and what was shown."""

    @property
    def shown(self) -> set[str | None]:
        return {value for _, value in self.seen}


@contextmanager
def guarded(upstream: str = "", *lets_in: str | None):
    """A guard on loopback while the block runs; without a server behind it, everything is a 404."""
    guard = Guard(lets_in=set(lets_in))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            guard.seen.append((self.path, self.headers.get("Authorization")))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, content = self.answer(body)
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

        def answer(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            if guard.redirect:
                return 302, {"Location": f"{guard.redirect}{self.path}"}, b""
            if self.headers.get("Authorization") not in guard.lets_in:
                return 401, {}, b""
            for part, document in guard.says.items():
                if part in self.path:
                    return 200, {}, json.dumps(document).encode()
            if not upstream:
                return 404, {}, b"{}"
            headers = {n: v for n, v in self.headers.items() if n.lower() not in HOP}
            got = httpx.request(self.command, f"{upstream}{self.path}", content=body, headers=headers, timeout=30)
            return got.status_code, dict(got.headers), got.content

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    guard.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield guard
    finally:
        server.shutdown()
        server.server_close()
