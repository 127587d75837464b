"""What a person may set about talking to a registry. Imports no HTTP, so that a command line can name it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How a registry is reached and how patiently; times in seconds.

    ``insecure`` accepts any certificate and, where the registry does not speak TLS, plain HTTP.
    ``ca_certs`` is a PEM file trusted in addition to the system's authorities. ``timeout`` bounds connecting
    to one address, the whole header of an answer, and each wait for the next bytes; a download has no total
    limit while bytes arrive. ``retries`` is how
    often a failure is tried again in a row, first after about ``backoff``, then twice as long each time up to
    ``longest_wait``; a registry that asks for more patience than that is not waited for.
    """

    insecure: bool = False
    ca_certs: Path | None = None
    timeout: float = 30.0
    retries: int = 5
    backoff: float = 0.5
    longest_wait: float = 60.0
