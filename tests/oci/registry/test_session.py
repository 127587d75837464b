"""Requests to one registry: what answers mean, and trying again."""

from __future__ import annotations

from msb_cache.oci.registry.http import Transport
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.oci.registry.session import Session

FAST = RegistryOptions(timeout=2, retries=2, backoff=0.01)


def test_docker_hub_has_another_host() -> None:
    assert Session("docker.io", FAST, None)._transport._host == "registry-1.docker.io"
    assert Transport("registry.example", FAST)._schemes == ("https",)
