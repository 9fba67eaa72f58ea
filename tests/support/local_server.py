"""A web server on 127.0.0.1 that answers from a dictionary."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer


@contextmanager
def serve(
    files: Mapping[str, bytes], announced: Mapping[str, int] | None = None, statuses: Mapping[str, int] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Serve `files` by name while the context lasts; every other name is a 404.

    Args:
        files: body of each name.
        announced: Content-Length of the names whose announced length is not that of the body.
        statuses: HTTP status of the names whose status is not 200.

    Yields:
        The address that a name is appended to, and the list of names asked for so far.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            asked.append(name)
            if name not in files:
                self.send_error(404)
                return
            self.send_response((statuses or {}).get(name, 200))
            self.send_header("Content-Length", str((announced or {}).get(name, len(files[name]))))
            self.end_headers()
            self.wfile.write(files[name])

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            server.shutdown()
            thread.join()
