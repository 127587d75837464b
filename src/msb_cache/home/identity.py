"""Who runs this process: what the kernel says of it, and what its caller says, which is not checked.

Of the environment only the names below are read, and no process's arguments are. What cannot be read, such as
a ``/proc`` that is not mounted, is not known, and is no error.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from msb_cache.errors import InvalidConfigError
from msb_cache.wording import as_text

if TYPE_CHECKING:
    from msb_cache.eventstore.store import Actor

VARIABLE = "MSB_CACHE_CONTEXT"
"""Holds ``NAME=VALUE`` pairs with commas between, for all that is run in its environment."""

LONGEST_REASON = 300
"""Characters: a reason stands in every event of what is done for it."""

MOST_NAMES = 16
MOST_BYTES = 256
"""Of a value, in UTF-8: it stands in every event, and a log forgets nothing."""

_NO_LOGIN = 2**32 - 1
_MOST_READ = 64 * 1024
_LONGEST = 255
"""Characters of a unit's name, or of another that comes from outside."""

# Patterns that most processes need not, so they are compiled where they are used.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,63}"
_SENSITIVE = (  # an author is no authorisation
    r"(?i)token|secret|pass|pwd|key|credential|cookie|session|signature|bearer|jwt|auth(?!ors?(?![a-z]))"
)
_USERINFO = r"(?<=://)[^/?#\s]*@"
_QUERY = r"[?#]\S*"

_UNITS = (".service", ".scope", ".socket", ".mount", ".swap", ".timer", ".path", ".device", ".target")
_ID = 64
"""Hexadecimal digits of a container's id."""
_RUNTIMES = {
    "docker": "docker",
    "libpod": "podman",
    "libpod_parent": "podman",
    "containerd": "containerd",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "crio",
}


class Login(NamedTuple):
    """The user who logged in: a name, or the number as text where the system has none, and the number."""

    name: str
    uid: int


class Place(NamedTuple):
    """The systemd unit and the container of a process, as ``Actor`` has them."""

    unit: str | None = None
    container: str | None = None


def current_actor(
    program: str | None = None, reason: str | None = None, context: Mapping[str, str] | None = None
) -> Actor:
    """Return who runs this process.

    Args:
        program: its name; None: that of the program that was started. Arguments are never part of it.
        reason: why, as a person gave it.
        context: what the caller says of itself, as ``checked_context`` returns it.
    """
    from msb_cache.eventstore.store import Actor

    uid = os.getuid()
    login, place = _kernel_says(os.getpid())
    said = {**_environment_says(), **(context or {})}
    return Actor(
        user=user_name(uid),
        uid=uid,
        host=os.uname().nodename,
        program=as_text(program or os.path.basename(sys.argv[0]) or "python"),
        reason=None if reason is None else as_text(reason),
        login=None if login is None else login.name,
        login_uid=None if login is None else login.uid,
        unit=place.unit,
        container=place.container,
        claimed=said or None,
    )


def user_name(uid: int) -> str:
    """Return a user's name; where the system has none for this number, the number."""
    import pwd

    try:
        return as_text(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


@lru_cache(maxsize=1)
def _kernel_says(pid: int) -> tuple[Login | None, Place]:
    # Once in a process, by its id because a forked one may be put elsewhere.
    return login_of(read(f"/proc/{pid}/loginuid")), place_of(read(f"/proc/{pid}/cgroup"))


def read(path: str) -> str:
    """Return what a file of ``/proc`` says, or its beginning; nothing where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return os.fsdecode(file.read(_MOST_READ))
    except OSError:
        return ""


def login_of(loginuid: str) -> Login | None:
    """Return who logged in, given what ``/proc/<pid>/loginuid`` says; None: no user did, as for services."""
    number = loginuid.strip()
    if not number.isdecimal() or len(number) > len(str(_NO_LOGIN)) or (uid := int(number)) >= _NO_LOGIN:
        return None
    return Login(user_name(uid), uid)


def place_of(cgroup: str) -> Place:
    """Return the unit and container of a process, given what ``/proc/<pid>/cgroup`` says, version 1 or 2.

    A user can name cgroups below the own manager (``user@1000.service``) at will. So the outermost names
    count, and what lies below such a manager stands behind its name.
    """
    paths: list[Sequence[str]] = []
    for line in cgroup.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        # systemd's own hierarchy, and that of version 2, say most; the others may be as good as empty.
        paths.insert(0 if controllers in ("name=systemd", "") else len(paths), path.split("/"))
    places = [_place(path) for path in paths]
    return Place(
        next((place.unit for place in places if place.unit), None),
        next((place.container for place in places if place.container), None),
    )


def _place(path: Sequence[str]) -> Place:
    unit: str | None = None
    for position, part in enumerate(path):
        prefix, identifier = _split(part.removesuffix(".scope"))
        if identifier is not None:
            return Place(unit, f"{_runtime(prefix, path[:position])}:{identifier[:12]}")
        if part.endswith(_UNITS):
            if unit is None:
                unit = bounded(part)
            elif unit.startswith("user@") and "/" not in unit:
                unit = f"{unit}/{bounded(part)}"
    return Place(unit)


def _split(part: str) -> tuple[str, str | None]:
    """Return what stands before a container's id in the name of a cgroup, and the id; None: it has none."""
    prefix, identifier = part[:-_ID], part[-_ID:]
    plain = len(identifier) == _ID and not identifier.strip("0123456789abcdef")
    # The monitor of a container runs beside it, not in it.
    if not plain or (prefix and not prefix.endswith("-")) or "conmon" in prefix:
        return "", None
    return prefix.removesuffix("-"), identifier


def _runtime(prefix: str, above: Sequence[str]) -> str:
    if any(part.startswith("kubepods") for part in above):
        return "kubepods"
    return next((_RUNTIMES[name] for name in (prefix, *reversed(above)) if name in _RUNTIMES), "container")


def bounded(text: str) -> str:
    """Return text from outside without control characters, and no longer than names are."""
    return "".join(filter(str.isprintable, text[:_LONGEST]))


def _environment_says() -> dict[str, str]:
    given = os.environ.get
    said: dict[str, str | None] = {}
    if os.geteuid() == 0:
        said["sudo_user"] = given("SUDO_USER")
    if run := given("GITHUB_RUN_ID"):
        said |= {"ci": "github", "ci_job": run}
        if (server := given("GITHUB_SERVER_URL")) and (repository := given("GITHUB_REPOSITORY")):
            said["ci_url"] = _address(f"{server}/{repository}/actions/runs/{run}")
    elif given("GITLAB_CI") and (job := given("CI_JOB_ID")):
        said |= {"ci": "gitlab", "ci_job": job, "ci_url": _address(given("CI_JOB_URL", ""))}
    elif job := given("BUILDKITE_JOB_ID"):
        said |= {"ci": "buildkite", "ci_job": job, "ci_url": _address(given("BUILDKITE_BUILD_URL", ""))}
    return {name: kept for name, value in said.items() if value and (kept := bounded(value))}


def _address(text: str) -> str:
    return re.sub(_QUERY, "", re.sub(_USERINFO, "", text))


def with_more_said(actor: Actor, reason: str | None, context: Mapping[str, str] | None) -> Actor:
    """Return an actor who gives this reason too, and says this of itself besides; None: as before.

    Raises:
        InvalidConfigError: the reason is too long, or the context cannot be kept as it is.
    """
    from msgspec.structs import replace

    if reason is not None:
        if len(reason) > LONGEST_REASON:
            raise InvalidConfigError(
                f"the reason has {len(reason):,} characters; at most {LONGEST_REASON} are kept"
            )
        actor = replace(actor, reason=as_text(reason))
    said = _checked({**(actor.claimed or {}), **(context or {})}) if context else actor.claimed
    return replace(actor, claimed=said)


def checked_context(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what the caller says of itself as it is kept: the environment's, then what is given.

    Control characters go, and logins in addresses. Of names that sound like a secret's only the name is kept.

    Raises:
        InvalidConfigError: a pair has no ``=``, a name cannot be kept, or it is too much.
    """
    context: dict[str, str] = {}
    for pair in filter(None, os.environ.get(VARIABLE, "").split(",")):
        context |= split(pair.strip(), VARIABLE)
    return _checked({**context, **(given or {})})


def _checked(context: Mapping[str, str]) -> dict[str, str]:
    if len(context) > MOST_NAMES:
        raise InvalidConfigError(f"the context has {len(context)} names; at most {MOST_NAMES} are kept")
    return {name: kept_value(name, value) for name, value in context.items()}


def split(pair: str, source: str) -> dict[str, str]:
    """Return the name and the value of one pair.

    Raises:
        InvalidConfigError: it has no ``=``; says where it comes from.
    """
    name, equals, value = pair.partition("=")
    if not equals:
        raise InvalidConfigError(f"{source} takes NAME=VALUE, such as ticket=OPS-12, and there is no = in it")
    return {name: value}


def kept_value(name: str, value: str) -> str:
    """Return what is kept of one value of a context: nothing, if its name sounds like a secret's.

    Raises:
        InvalidConfigError: the name cannot be kept, or the value is too long; the value is not in the error.
    """
    if not re.fullmatch(_NAME, name):
        raise InvalidConfigError(
            "a context's names are of letters, digits and _ . : / - only, at most 64 of them; "
            f"{bounded(name)!r} is none"
        )
    text = "".join(filter(str.isprintable, value))
    if (size := len(text.encode())) > MOST_BYTES:
        raise InvalidConfigError(
            f"the value of {name} in the context has {size} bytes; at most {MOST_BYTES} are kept"
        )
    if re.search(_SENSITIVE, name):
        return ""
    # What an address asks for stays, a ticket's number for one, unless that sounds like a secret as well.
    return _address(text) if re.search(_SENSITIVE, text.partition("?")[2]) else re.sub(_USERINFO, "", text)
