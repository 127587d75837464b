"""Which proxy the environment names for a URL, if any. Not for talking to one.

HTTP_PROXY, HTTPS_PROXY and NO_PROXY (and in lower case) as Go reads them, and so Docker and Podman: names
with their subdomains, addresses, CIDR ranges, each with an optional port; loopback is never proxied.
"""

from __future__ import annotations

import ipaddress
import urllib.request
from urllib.parse import SplitResult, urlsplit

from msb_cache.errors import InvalidConfigError


def proxy_for(url: SplitResult) -> str:
    """The proxy's URL, possibly with its login, or nothing; raises InvalidConfigError for what is none."""
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(url.scheme, "")
    if not proxy or is_loopback(url.netloc):
        return ""
    port = url.port or {"https": 443}.get(url.scheme, 80)
    if any(_excepts(entry.strip(), url.hostname or "", port) for entry in proxies.get("no", "").split(",")):
        return ""
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return proxy
    except ValueError:
        pass
    raise InvalidConfigError(
        f"{url.scheme.upper()}_PROXY does not name an HTTP proxy, as http://host:port does"
    )


def is_loopback(host: str) -> bool:
    """Whether a host (with or without a port) is this machine: localhost, 127.0.0.0/8 or ::1."""
    name = urlsplit(f"//{host}").hostname or ""
    address = _address(name)
    return name == "localhost" or (address is not None and address.is_loopback)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _excepts(entry: str, host: str, port: int) -> bool:
    """Whether one entry of NO_PROXY covers a host."""
    if entry == "*":
        return True
    address = _address(host)
    if address is not None:
        try:
            if address in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:  # an address with a port, or a name
            pass
    try:
        parts = urlsplit(f"//{entry}")
        name, only = (parts.hostname or "").removeprefix("*").strip("."), parts.port
    except ValueError:
        return False
    return bool(name) and only in (None, port) and (host == name or host.endswith(f".{name}"))
