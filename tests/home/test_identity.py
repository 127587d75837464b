"""Who runs this process: what the kernel says, however it writes it, and what the environment may claim."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from msb_cache.errors import InvalidConfigError
from msb_cache.home import identity
from msb_cache.home.identity import checked_context, current_actor, login_of, place_of

HEX = "4c01db0b339c" + "0" * 52
NONE = (None, None)


@pytest.mark.parametrize(
    ("path", "unit", "container"),
    [
        ("/", None, None),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", None),
        ("/system.slice/nightly.service", "nightly.service", None),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", None),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service/b.service",
         "user@1000.service/a.service", None),
        ("/user.slice/user-1000.slice/user@1000.service", "user@1000.service", None),
        ("/system.slice/agent.service/faked.service", "agent.service", None),
        (f"/system.slice/docker-{HEX}.scope", None, "docker:4c01db0b339c"),
        (f"/docker/{HEX}", None, "docker:4c01db0b339c"),
        (f"/docker/{HEX}/system.slice/nginx.service", None, "docker:4c01db0b339c"),
        (f"/machine.slice/libpod-{HEX}.scope/container", None, "podman:4c01db0b339c"),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{HEX}.scope/container",
         "user@1000.service", "podman:4c01db0b339c"),
        (f"/libpod_parent/libpod-{HEX}", None, "podman:4c01db0b339c"),
        (f"/machine.slice/libpod-conmon-{HEX}.scope", f"libpod-conmon-{HEX}.scope", None),
        (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-{HEX}.scope",
         None, "kubepods:4c01db0b339c"),
        (f"/kubepods/besteffort/pod1-2/{HEX}", None, "kubepods:4c01db0b339c"),
        (f"/default/{HEX}", None, "container:4c01db0b339c"),
        (f"/system.slice/nerdctl-{HEX}.scope", None, "containerd:4c01db0b339c"),
        (f"/../../system.slice/docker-{HEX}.scope", None, "docker:4c01db0b339c"),
        ("/system.slice/a\x1b[2J\udcff.service", "a[2J.service", None),
        (f"/system.slice/{'x' * 300}.service", "x" * 255, None),
        (f"/system.slice/{HEX[:-1]}z", None, None),
    ],
)  # fmt: skip
def test_a_cgroup_says_unit_and_container(path: str, unit: str | None, container: str | None) -> None:
    assert place_of(f"0::{path}\n") == (unit, container)
    # Version 1: systemd's own hierarchy says it, or only that of a controller.
    first = f"9:name=systemd:{path}\n8:pids:/\n4:memory:/other\n"
    assert place_of(first) == (unit, container)
    assert place_of(f"9:pids:{path}\n1:name=systemd:/\n0::/\n") == (unit, container)


@pytest.mark.parametrize("text", ["", "\n", ":", "0::", "nonsense", "1:2", "\0" * 100, "0::" + "/" * 60_000])
def test_a_cgroup_that_says_nothing_is_no_error(text: str) -> None:
    assert place_of(text) == NONE


@pytest.mark.parametrize("text", ["", "4294967295", "4294967295\n", "-1", "x", "9" * 5000, "²", "1 2"])
def test_no_login(text: str) -> None:
    assert login_of(text) is None


def test_a_login_has_a_name_or_its_number() -> None:
    assert login_of("0\n") == ("root", 0)
    assert login_of("3999999999") == ("3999999999", 3999999999)


def test_what_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert identity.read(str(tmp_path / "none")) == identity.read(str(tmp_path)) == ""
    (tmp_path / "long").write_bytes(b"\xff" * 100_000)
    assert identity.read(str(tmp_path / "long")) == "\udcff" * 65536


def test_the_kernel_is_asked_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    says = {"loginuid": "0", "cgroup": "0::/system.slice/nightly.service"}
    asked: list[str] = []

    def read(path: str) -> str:
        asked.append(path)
        return says[os.path.basename(path)]

    monkeypatch.setattr(identity, "read", read)
    identity._kernel_says.cache_clear()
    try:
        actors = [current_actor("msb-cache", str(number)) for number in range(3)]
    finally:
        identity._kernel_says.cache_clear()
    assert asked == [f"/proc/{os.getpid()}/loginuid", f"/proc/{os.getpid()}/cgroup"]
    assert {(actor.login, actor.login_uid, actor.unit) for actor in actors} == {
        ("root", 0, "nightly.service")
    }


def test_what_the_kernel_really_says(require_peer: Callable[[str], str]) -> None:
    require_peer("root")
    program = (
        "import os, sys\n"
        "try:\n    open('/proc/self/loginuid', 'w').write('4242424242')\n"
        "except OSError:\n    sys.exit(77)\n"
        "from msb_cache.home.identity import current_actor\n"
        "actor = current_actor()\n"
        "print(actor.user, actor.uid, actor.login, actor.login_uid, actor.program)"
    )
    done = subprocess.run([sys.executable, "-c", program, "secret"], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this kernel lets no login user be set here")
    assert done.stdout == "root 0 4242424242 4242424242 -c\n"


def test_odd_bytes_in_the_programs_name_are_escaped() -> None:
    actor = current_actor("a\udcff", reason="b\udcfe")
    assert (actor.program, actor.reason) == ("a\\udcff", "b\\udcfe")


ADDRESS = "https://user:hunter2@ci.example/x/1?token=hunter2#frag"


@pytest.mark.parametrize(
    ("environment", "claimed"),
    [
        (
            {"GITHUB_RUN_ID": "7", "GITHUB_SERVER_URL": "https://u:p@github.com", "GITHUB_REPOSITORY": "a/b"},
            {"ci": "github", "ci_job": "7", "ci_url": "https://github.com/a/b/actions/runs/7"},
        ),
        ({"GITHUB_RUN_ID": "7", "GITHUB_TOKEN": "hunter2"}, {"ci": "github", "ci_job": "7"}),
        (
            {"GITLAB_CI": "true", "CI_JOB_ID": "8", "CI_JOB_URL": ADDRESS, "CI_JOB_TOKEN": "hunter2"},
            {"ci": "gitlab", "ci_job": "8", "ci_url": "https://ci.example/x/1"},
        ),
        ({"CI_JOB_ID": "8"}, None),
        (
            {"BUILDKITE_JOB_ID": "9\x1b[2J", "BUILDKITE_BUILD_URL": ADDRESS},
            {"ci": "buildkite", "ci_job": "9[2J", "ci_url": "https://ci.example/x/1"},
        ),
        ({"GITHUB_RUN_ID": "7" * 9999}, {"ci": "github", "ci_job": "7" * 255}),
        ({"SUDO_COMMAND": "/bin/sh -c hunter2", "HOME": "/hunter2"}, None),
    ],
)
def test_what_the_environment_claims(
    environment: dict[str, str], claimed: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert current_actor("p").claimed == claimed


@pytest.mark.parametrize(("euid", "claimed"), [(0, {"sudo_user": "alice"}), (1000, None)])
def test_only_root_can_have_come_by_sudo(
    euid: int, claimed: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    assert current_actor("p").claimed == claimed


def test_a_context_is_the_environments_and_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSB_CACHE_CONTEXT", "ticket=OPS-12, team=build,,stage=a=b")
    context = checked_context({"team": "infra"})
    assert context == {"ticket": "OPS-12", "team": "infra", "stage": "a=b"}
    assert current_actor("p", context=context).claimed == context


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("api_token", "hunter2", ""),
        ("DB-PASSWORD", "hunter2", ""),
        ("ssh.key", "hunter2", ""),
        ("authorization", "hunter2", ""),
        ("Auth", "hunter2", ""),
        ("clientSecret", "hunter2", ""),
        ("author", "alice", "alice"),
        ("url", "https://u:hunter2@ci.example/a@b?id=7", "https://ci.example/a@b?id=7"),
        ("url", "https://ci.example/a?id=7&token=hunter2", "https://ci.example/a"),
        ("note", "a\x1b[2J\r\nb\udcff", "a[2Jb"),
        ("empty", "", ""),
        ("long", "é" * 128, "é" * 128),
    ],
)
def test_what_is_kept_of_a_context(name: str, value: str, kept: str) -> None:
    assert checked_context({name: value}) == {name: kept}


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        ({str(number): "" for number in range(17)}, "the context has 17 names; at most 16 are kept"),
        ({"a": "é" * 128 + "x"}, "the value of a in the context has 257 bytes; at most 256 are kept"),
        ({"": "x"}, "'' is none"),
        ({"a b": "x"}, "'a b' is none"),
        ({"a" * 65: "x"}, "at most 64"),
        ({"a\x1b": "x"}, "'a' is none"),
    ],
)
def test_a_context_that_is_too_much_or_has_no_name(context: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidConfigError, match=sentence):
        checked_context(context)


def test_a_pair_without_an_equals_sign_names_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSB_CACHE_CONTEXT", "ticket=1,hunter2")
    with pytest.raises(InvalidConfigError, match="MSB_CACHE_CONTEXT takes NAME=VALUE") as raised:
        checked_context()
    assert "hunter2" not in str(raised.value)
