"""Which proxy the environment names for a URL."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from msb_cache.errors import InvalidConfigError
from msb_cache.oci.registry.proxy import is_loopback, proxy_for


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.8.8.8", True),
        ("[::1]:5000", True),
        ("[::2]:5000", False),
        ("localhost.example", False),
        ("128.0.0.1", False),
        ("registry.example:5000", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("url", "no_proxy", "used"),
    [
        ("https://registry.example/", "", True),
        ("http://registry.example/", "", False),
        ("https://127.0.0.1:5000/", "", False),
        ("https://localhost/", "", False),
        ("https://registry.example/", "*", False),
        ("https://registry.example/", "other.example, registry.example", False),
        ("https://registry.example/", ".example", False),
        ("https://registry.example/", "*.example", False),
        ("https://registry.example/", "EXAMPLE", False),
        ("https://registry.example/", "try.example", True),
        ("https://registry.example:5000/", "registry.example:5000", False),
        ("https://registry.example/", "registry.example:5000", True),
        ("https://10.1.2.3/", "10.0.0.0/8", False),
        ("https://11.1.2.3/", "10.0.0.0/8", True),
        ("https://[fd00::1]/", "fd00::/8", False),
        ("https://registry.example/", "registry.example:x,[", True),
    ],
)
def test_no_proxy(url: str, no_proxy: str, used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert proxy_for(urlsplit(url)) == ("http://proxy.example:3128" if used else "")


@pytest.mark.parametrize("value", ["socks5://proxy:1080", "http://", "http://a:b:c", "ftp://x"])
def test_what_is_no_proxy(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", value)
    with pytest.raises(InvalidConfigError, match="HTTPS_PROXY does not name an HTTP proxy"):
        proxy_for(urlsplit("https://registry.example"))
