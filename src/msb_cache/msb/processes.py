"""Which process that is: what the kernel says of another one, as an actor.

Of its arguments only the words of msb's own commands are looked for, and no other is kept.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from msb_cache.home.identity import bounded, login_of, place_of, read, user_name
from msb_cache.wording import as_text

if TYPE_CHECKING:
    from msb_cache.eventstore.store import Actor

_SANDBOX = (
    *("run", "create", "restore", "modify", "mod", "start", "stop", "pause", "resume", "fork", "restart"),
    *("wait", "ping", "touch", "list", "ls", "status", "ps", "metrics", "remove", "rm", "exec", "copy", "cp"),
    *("logs", "ssh", "inspect"),
)
_SNAPSHOT = (
    *("create", "restore", "list", "ls", "inspect", "verify", "remove", "rm", "reindex", "export", "save"),
    *("import", "load", "head"),
)
_VOLUME = ("create", "list", "ls", "inspect", "remove", "rm")
_GROUPS = {
    "image": ("pull", "list", "ls", "inspect", "load", "save", "remove", "rm", "prune"),
    **dict.fromkeys(("sandbox", "sbx"), _SANDBOX),
    **dict.fromkeys(("snapshot", "snap"), _SNAPSHOT),
    **dict.fromkeys(("volume", "vol"), _VOLUME),
}
_VERBS = (*_SANDBOX, *_GROUPS, "pull", "load", "save", "df", "prune", "doctor", "machine")
_DELETED = " (deleted)"
"""Stands behind a program's path in /proc when its file was replaced."""


class Process(NamedTuple):
    """What was seen of a process while it lived.

    Attributes:
        uids: its real, effective and saved user and that of the file system.
        loginuid: what ``/proc/<pid>/loginuid`` says.
        cgroup: what ``/proc/<pid>/cgroup`` says.
        program: its file's name, or what it calls itself where that cannot be read, with msb's verbs.
        parent: the program that started it; None: that has ended.
    """

    uids: tuple[int, ...]
    loginuid: str
    cgroup: str
    program: str
    parent: str | None

    def stands_for(self, other: Process) -> bool:
        """Return whether what this one did may as well be told as done by the same person as the other."""
        mine = set(self.uids)
        return mine == {0} or (mine == set(other.uids) and self.loginuid == other.loginuid)


def seen(pid: int) -> Process | None:
    """Return what the kernel says of a process now; None where it does not, or the process has ended."""
    status = _status(pid)
    uids = tuple(map(int, status.get("Uid", "").split()))
    program = _program(pid)
    if len(uids) != 4 or not program:
        return None
    parent_pid = status.get("PPid", "0")
    parent = _program(int(parent_pid)) if parent_pid != "0" else ""
    # A process whose parent ends gets another one, so the number was not given anew meanwhile.
    same = _status(pid).get("PPid") == parent_pid
    return Process(
        uids,
        read(f"/proc/{pid}/loginuid").strip(),
        read(f"/proc/{pid}/cgroup"),
        " ".join((program, *(_verbs(pid) if program == "msb" else ()))),
        parent if parent and same else None,
    )


def actor_of(process: Process, recorder: Actor) -> Actor:
    """Return the actor of what a process was seen to do.

    Args:
        process: as it was seen.
        recorder: who records it.
    """
    from msb_cache.eventstore.store import Actor

    login, place = login_of(process.loginuid), place_of(process.cgroup)
    return Actor(
        user=user_name(process.uids[0]),
        uid=process.uids[0],
        host=recorder.host,
        program=process.program,
        observed=True,
        login=None if login is None else login.name,
        login_uid=None if login is None else login.uid,
        unit=place.unit,
        container=place.container,
        parent=process.parent,
        seen_by=f"{recorder.user}@{recorder.host} ({recorder.program})",
    )


def _status(pid: int) -> dict[str, str]:
    return dict(re.findall(r"(?m)^(Uid|PPid):\s*([0-9\t ]+)$", read(f"/proc/{pid}/status")))


def _program(pid: int) -> str:
    try:
        found = os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(_DELETED))
    except PermissionError:
        found = read(f"/proc/{pid}/comm").rstrip("\n")  # only root may know the file of another user's
    except OSError:
        return ""  # it has ended, or is the kernel's own, such as a file server that does others' work
    return bounded(as_text(found))


def _verbs(pid: int) -> list[str]:
    words = [word for word in read(f"/proc/{pid}/cmdline").split("\0")[1:] if not word.startswith("-")]
    if not words or words[0] not in _VERBS:
        return []
    return words[:2] if words[1:] and words[1] in _GROUPS.get(words[0], ()) else words[:1]
