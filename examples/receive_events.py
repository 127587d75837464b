"""Receive the events of an image cache, as `msb-cache events --post URL` sends them.

    python3 receive_events.py SECRET_FILE [PORT]

It listens on this machine, prints its URL, and then a line for each event that is new. It verifies the
signatures by hand, so that nothing has to be installed; the package `standardwebhooks` does the same.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

TOLERANCE = 300
"""Seconds by which the sender's clock and the way may differ: what is older was recorded and sent again."""


def keys(file: Path) -> list[bytes]:
    """Return the keys of a file of secrets, one a line."""
    secrets = file.read_text().split("\n")
    return [
        base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
        for secret in map(str.strip, secrets)
        if secret
    ]


def is_genuine(known: list[bytes], identifier: str, moment: str, signatures: str, body: bytes) -> bool:
    """Return whether one of the signatures is by one of the keys, and fresh."""
    if not moment.isdecimal() or abs(time.time() - int(moment)) > TOLERANCE:
        return False
    signed = f"{identifier}.{moment}.".encode() + body
    right = {f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}" for key in known}
    return any(hmac.compare_digest(one, each) for one in right for each in signatures.split())


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    keys: list[bytes]
    seen: set[str] = set()  # noqa: RUF012
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take the events of a request, or refuse it."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        identifier, moment, signatures = (
            self.headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature")
        )
        if is_genuine(self.keys, identifier, moment, signatures, body):
            found = json.loads(body)
            for event in found if isinstance(found, list) else [found]:
                if event["id"] not in self.seen:  # what was not acknowledged comes again
                    print(f"{int(event['sequence']):>4}", event["type"], event.get("subject", ""), flush=True)
                    self.seen.add(event["id"])
            self.answer(204)  # only now: what is acknowledged is never sent again
        else:
            self.answer(401)

    def answer(self, status: int) -> None:
        """Answer without a text."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing more."""


def main() -> None:
    """Receive until Ctrl-C."""
    Handler.keys = keys(Path(sys.argv[1]))
    server = HTTPServer(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
