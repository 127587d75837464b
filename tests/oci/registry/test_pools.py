"""Requests over kept connections, as they are sent; what an answer means is the transport's matter."""

from __future__ import annotations

from msb_cache.oci.registry.network import Network
from msb_cache.oci.registry.pools import Pools
from tests.registry_server import RegistryServer, answer, redirect


def pools() -> Pools:
    return Pools(Network("", 2, None), timeout=2, ca_certs=None, insecure=False, judged=False)


def test_a_body_is_posted_as_it_is_on_one_connection() -> None:
    with RegistryServer() as server:
        server.on("/hook", answer(204), always=True)
        kept = pools()
        for body in (b"[1]", b"[1, 2]"):
            response = kept.request("POST", f"http://{server.host}/hook?a=b", {"X-Kind": "json"}, body)
            assert response.status == 204
            response.drain_conn()
            response.release_conn()
        kept.close()
        sent = [(each.method, each.path, each.body, each.headers["x-kind"]) for each in server.requests]
        assert sent == [("POST", "/hook?a=b", body, "json") for body in (b"[1]", b"[1, 2]")]
        assert server.requests[0].headers["user-agent"] == "msb-cache"
        assert server.connections == 1


def test_no_redirect_is_followed() -> None:
    with RegistryServer() as server:
        server.on("/hook", redirect("/elsewhere"))
        response = pools().request("POST", f"http://{server.host}/hook", {}, b"{}")
        assert (response.status, response.headers["location"]) == (307, "/elsewhere")
        response.close()
        assert len(server.requests) == 1
