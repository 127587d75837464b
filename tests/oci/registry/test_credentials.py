"""Finding logins in Docker's and Podman's files and helpers."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from msb_cache.errors import InvalidConfigError
from msb_cache.oci.registry import credentials
from msb_cache.oci.registry.credentials import Credential, find_credential

HOST = "registry.example:5000"
HUB = "https://index.docker.io/v1/"


class Machine:
    """A home with a ``.docker`` folder and a PATH of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / ".docker" / "config.json"
        self.programs = folder / "bin"
        self.config.parent.mkdir(parents=True)
        self.programs.mkdir()
        self.environ = {"HOME": str(folder), "PATH": f"{self.programs}:/usr/bin:/bin"}

    def write(self, document: Any, path: Path | None = None) -> Path:
        target = path or self.config
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(document if isinstance(document, str) else json.dumps(document))
        return target

    def helper(self, name: str, script: str) -> None:
        program = self.programs / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def find(self, registry: str = HOST, **more: Any) -> Credential | None:
        return find_credential(registry, environ=self.environ, **more)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def auth(login: str) -> dict[str, str]:
    return {"auth": base64.b64encode(login.encode()).decode()}


def test_no_secret_is_shown() -> None:
    shown = repr(Credential("alice", "pass", "token"))
    assert "alice" in shown
    assert "pass" not in shown
    assert "token=" not in shown


def test_nothing_is_found_where_nothing_is(machine: Machine) -> None:
    assert machine.find() is None
    machine.write("")
    assert machine.find() is None
    machine.write({"auths": {}, "HttpHeaders": {"X": "y"}})
    assert machine.find() is None
    assert find_credential(HOST, environ={}) is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (auth("alice:pass:wörd"), Credential("alice", "pass:wörd")),
        (auth("alice:pass\0\0"), Credential("alice", "pass")),
        ({"username": "alice", "password": "pass"}, Credential("alice", "pass")),
        ({**auth("alice:"), "identitytoken": "refresh"}, Credential("alice", "", "refresh")),
        ({"identitytoken": "refresh"}, Credential("", "", "refresh")),
        ({}, None),
        ({"auth": ""}, None),
        (None, None),
    ],
)
def test_logins_in_the_file(machine: Machine, entry: Any, expected: Credential | None) -> None:
    machine.write({"auths": {HOST: entry, "other.example": auth("eve:no")}})
    assert machine.find() == expected


@pytest.mark.parametrize(
    ("key", "registry", "same"),
    [
        (HOST, HOST, True),
        (f"https://{HOST}", HOST, True),
        (f"http://{HOST}/v1/", HOST, True),
        (f"https://{HOST}/v2/", HOST, True),
        (f"{HOST}/namespace", HOST, False),
        ("registry.example", HOST, False),
        ("evil.example/registry.example:5000", HOST, False),
        (HUB, "docker.io", True),
        ("docker.io", "docker.io", True),
        ("index.docker.io", "docker.io", True),
        ("https://registry-1.docker.io", "docker.io", True),
        ("hub.docker.io", "docker.io", False),
    ],
)
def test_names_of_registries(machine: Machine, key: str, registry: str, same: bool) -> None:
    machine.write({"auths": {key: auth("alice:pass")}})
    assert machine.find(registry) == (Credential("alice", "pass") if same else None)


def test_the_order_of_files(machine: Machine) -> None:
    machine.write({"auths": {HOST: auth("home:p")}})
    assert machine.find() == Credential("home", "p")
    docker = machine.write({"auths": {HOST: auth("docker:p")}}, machine.folder / "other" / "config.json")
    machine.environ["DOCKER_CONFIG"] = str(docker.parent)
    assert machine.find() == Credential("docker", "p")
    podman = machine.write({"auths": {HOST: auth("podman:p")}}, machine.folder / "auth.json")
    machine.environ["REGISTRY_AUTH_FILE"] = str(podman)
    assert machine.find() == Credential("podman", "p")
    assert machine.find(explicit=Credential("me", "p")) == Credential("me", "p")
    podman.write_text("{}")
    assert machine.find() == Credential("docker", "p")
    podman.unlink()
    assert machine.find() == Credential("docker", "p")


def test_an_explicit_login_reads_nothing(machine: Machine) -> None:
    machine.write("{")
    assert machine.find(explicit=Credential("me", "p")) == Credential("me", "p")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"auths":[]}', "[" * 100_000, '{"auths":{"x":{"auth":7}}}', "\xff"]
)
def test_a_damaged_file_is_named(machine: Machine, text: str) -> None:
    machine.write(text)
    with pytest.raises(InvalidConfigError, match=r"config.json cannot be read: it is not the JSON") as caught:
        machine.find()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["!!", "bm9jb2xvbg==", "YTpi\n;", "/w=="])
def test_a_damaged_login_is_not_shown(machine: Machine, value: str) -> None:
    machine.write({"auths": {HOST: {"auth": value}}})
    with pytest.raises(InvalidConfigError, match=f"run 'docker login {HOST}' again") as caught:
        machine.find()
    assert value not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(machine: Machine) -> None:
    machine.config.mkdir()
    with pytest.raises(InvalidConfigError, match=r"config.json cannot be read \(Is a directory\)"):
        machine.find()


# --- helpers ------------------------------------------------------------------------------------

ANSWERS = (
    """read server; printf '{"ServerURL":"%s","Username":"alice","Secret":"for %s"}' "$server" "$server" """
)


def test_the_store_is_asked(machine: Machine) -> None:
    machine.helper("test", ANSWERS)
    machine.write({"credsStore": "test", "auths": {HOST: {}}})
    assert machine.find() == Credential("alice", f"for {HOST}")
    assert machine.find("docker.io") == Credential("alice", f"for {HUB}")


def test_a_registrys_own_helper_comes_first(machine: Machine) -> None:
    machine.helper("own", ANSWERS)
    machine.write({"credsStore": "missing", "credHelpers": {HOST: "own"}})
    assert machine.find() == Credential("alice", f"for {HOST}")


def test_a_helper_may_give_an_identity_token(machine: Machine) -> None:
    machine.helper("test", """printf '{"Username":"<token>","Secret":"refresh"}'""")
    machine.write({"credsStore": "test"})
    assert machine.find() == Credential("", "", "refresh")


def test_a_helper_that_knows_nothing_leaves_it_to_the_file(machine: Machine) -> None:
    machine.helper("test", "echo credentials not found in native keychain; exit 1")
    machine.write({"credsStore": "test"})
    assert machine.find() is None
    machine.write({"credsStore": "test", "auths": {HOST: auth("alice:pass")}})
    assert machine.find() == Credential("alice", "pass")


@pytest.mark.parametrize("name", ["../evil", "/bin/sh", "a b", "a;b", "-x", "", "x" * 65])
def test_a_helpers_name_is_checked(machine: Machine, name: str) -> None:
    machine.write({"credHelpers": {HOST: name}})
    if not name:
        assert machine.find() is None
        return
    with pytest.raises(InvalidConfigError, match="which is not a helper's name"):
        machine.find()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "asks for docker-credential-test, which is not installed: install it or remove the entry"),
        ("echo secret; exit 3", "failed: run it, or remove the entry"),
        ("echo secret", "answers no login"),
        ("exec cat /dev/zero", "answers more than a login"),
        ("sleep 20", "did not answer within 0 seconds"),
        ("exec 1>&-; sleep 20", "did not end within 0 seconds"),
    ],
)
def test_a_helper_that_fails_is_named(
    machine: Machine, script: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "HELPER_SECONDS", 0.3)
    if script is not None:
        machine.helper("test", script)
    machine.write({"credsStore": "test"})
    with pytest.raises(InvalidConfigError, match=message) as caught:
        machine.find()
    assert "secret" not in str(caught.value)


def test_the_environment_is_the_default(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write({"auths": {HOST: auth("alice:pass")}})
    monkeypatch.setenv("HOME", str(machine.folder))
    assert find_credential(HOST, environ=os.environ) == find_credential(HOST) == Credential("alice", "pass")


def test_a_helper_that_takes_its_time_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msb_cache.oci.registry.credentials.SAY_AFTER", 0.01)
    finish = machine.programs / "finish"
    said: list[str] = []

    def note(sentence: str) -> None:
        said.append(sentence)
        finish.touch()

    answer = """echo '{"Username": "a", "Secret": "b"}'"""
    machine.helper("slow", f"while [ ! -e {finish} ]; do sleep 0.02; done; {answer}")
    path = machine.write({"credsStore": "slow"})
    assert machine.find(note=note) == Credential("a", "b")
    assert said == [f"waiting for docker-credential-slow, which {path} asks for"]
