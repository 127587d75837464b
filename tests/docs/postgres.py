"""The PostgreSQL of the documentation, which documents call ``fleet.example``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.fleet.postgres import PASSWORD, running

DOCUMENTED = "fleet.example"


class DocumentedPostgres:
    """A server that is started when a document first names it.

    Attributes:
        host: its address and port.
    """

    def __init__(self, home: Path) -> None:
        self._stack = ExitStack()
        server = self._stack.enter_context(running())
        self.host = f"127.0.0.1:{server.port}"
        passwords = home / ".pgpass"
        before = passwords.read_text() if passwords.exists() else ""
        passwords.write_text(f"{before}*:*:*:admin:{PASSWORD}\n")
        passwords.chmod(0o600)

    def shown(self, text: str) -> str:
        """What a command says, with the server as documents call it."""
        address, port = self.host.split(":")
        return text.replace(self.host, DOCUMENTED).replace(
            f"host={address} port={port}", f"host={DOCUMENTED}"
        )

    def close(self) -> None:
        """Stop it."""
        self._stack.close()
