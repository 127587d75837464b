"""The registry of the documentation: both hello images, on a loopback port that documents call 5000."""

from __future__ import annotations

import errno
import itertools
import threading

from tests.docs.images import hello
from tests.registry_server import RegistryServer, _Server

DOCUMENTED = "localhost:5000"


class DocumentedRegistry(RegistryServer):
    """On a port of four digits, because tables are as wide as their names."""

    def __init__(self) -> None:
        super().__init__()
        handler = self._server.RequestHandlerClass
        self._server.server_close()
        for port in itertools.count(5000):
            try:
                self._server = _Server(("127.0.0.1", port), handler)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or port == 9999:
                    raise
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.port = port
        self.host = f"localhost:{port}"
        for version in ("1.0", "1.1"):
            self.add(hello(version), "hello", version)
