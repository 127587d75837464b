"""What of an output may differ from one run to the next, all in one place.

``shown`` puts a fictitious user, host and home into real output; ``masked`` blanks times, durations, what
hashes and ids cover them, and nothing else. Digests, sizes, counts, names and wording must be equal.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

from msb_cache.home.identity import current_actor

HOME = "/home/charlie"
"""As long as the real home (``/tmp/`` and eight characters), for a VMDK's size depends on its paths."""
USER, HOST, UID = "charlie", "laptop", 1000

OPERATION = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}(?:-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})?(?![0-9a-f-])")
"""The id of an operation or event (UUIDv7), or its first 13 characters."""

# The login user, the unit and the container of those who run this: in JSON, on lines of their own or in one
# that may stand within a string, and in words.
_KERNELS = re.compile(
    r',\n *"(?:login|login_uid|unit|container)": [^\n]*?(?=,?\n)'
    r'|,\\?"(?:login|login_uid|unit|container)\\?":(?:\d+|\\?"[^"\\]*\\?")'
    r"|, (?:logged in as \S+ \(uid \d+\)|unit [^ ,:]+|container \w+:\w+)"
)
_PADDING = re.compile(r" +$", re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_TIME = re.compile(r"\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?")
_MASKS = (
    (re.compile(r"\b1[6-9]\d{17}\b"), "<ns>"),
    (re.compile(r'("(?:duration|idle|age)_ns": ?)\d+'), r"\1<duration>"),
    (OPERATION, "<id>"),
    (re.compile(r"\blog [0-9a-f]{12}\b"), "log <log id>"),
    (re.compile(r"(\u2713 laptop) \([0-9a-f]{12}\)"), r"\1 (<log id>)"),
    (re.compile(r"\b20\d{6}T\d{6}Z-[0-9a-f]{12}\b"), "<set aside>"),
    (re.compile(r"\b((?:head|hash)\W{1,5})[0-9a-f]{12,64}\b"), r"\1<hash>"),
    # Keys and what they sign: verifier keys, the roots of checkpoints, signatures below notes and what proofs
    # carry, or the beginning of these two.
    (re.compile(r"\+[0-9a-f]{8}\+[A-Za-z0-9+/]{44}(?![A-Za-z0-9+/=])"), "+<key>"),
    (re.compile(r"^[A-Za-z0-9+/]{43}=$", re.MULTILINE), "<root>"),
    (re.compile(r"^(\u2014 \S+) [A-Za-z0-9+/]{16,}={0,2}$", re.MULTILINE), r"\1 <signature>"),
    (re.compile(r"^extra [A-Za-z0-9+/]{16,}={0,2}$", re.MULTILINE), "extra <event>"),
    (re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])"), "<log id>"),
    # What folders take, and so all of the cache, and a database, is for the file system to say.
    (re.compile(r"^(folders|cache/ in all|log \(db\S+|Log:) .*$", re.MULTILINE), r"\1 <size>"),
)
# Who changed msb's database is told only to root, and not at all on a machine that is busy with much else.
_CHANGED_BY = re.compile(r"(?:seen by )?charlie@laptop \(msb \w+(?: \w+)?\)")
_NOT_TOLD = re.compile(r"^note: who changes msb's database is not recorded.*\n", re.MULTILINE)
_WAITED = re.compile(r"^note: waiting for msb to (?:end|read) .*\n", re.MULTILINE)
"""What is said on a machine that is busy."""
_PINS = re.compile(r"^(PINNED +DIGEST +)(BY +)SINCE.*\n(?:(?!note: ).+\n)*", re.MULTILINE)
_WHO = re.compile(r"^(?:SEQ|REFERENCE|HOST) .* WHO(?= {2,}\S)", re.MULTILINE)
"""The header of a column that is as wide as the fictitious user, and is not the last."""
_OTHER_PLATFORM = re.compile(r"^note: .* is for linux/amd64, not for .*\n", re.MULTILINE)


def shown(output: str, home: Path) -> str:
    """Real output as the documentation prints it: no colours or padding, nothing of this machine."""
    # A terminal puts a return before each new line, and lines of CSV have one of their own.
    text = re.sub(r"\r+\n", "\n", _ANSI.sub("", output)).replace(str(home), HOME)
    text = _WAITED.sub("", text)
    here = current_actor("msb-cache")
    uid, host, user = here.uid, here.host, here.user
    known = {f"as {user}", here.unit, here.container}

    def fictitious(match: re.Match[str]) -> str:
        notes = [note for note in (match[1] or "").split(", ") if note and note not in known]
        told = ", ".join(f"uid {UID}" if note == f"uid {uid}" else note for note in notes)
        return f"{USER}@{HOST} ({told})" if told else f"{USER}@{HOST}"

    names = "|".join(map(re.escape, {user, here.login or user}))
    text = re.sub(rf"\b(?:{names})@{re.escape(host)}\b(?: \(([^()\n]*)\))?", fictitious, text)
    text = _KERNELS.sub("", text)
    for key, value, instead in (
        ("user", user, USER),
        ("by", here.login or user, USER),
        ("who", here.login or user, USER),
        ("host", host, HOST),
        ("uid", str(uid), str(UID)),
    ):
        # JSON, perhaps within a JSON string.
        text = re.sub(
            rf'(\\?"{key}\\?": ?(?:\\?")?){re.escape(value)}(?=\\?[",\s}}])', rf"\g<1>{instead}", text
        )
    text = re.sub(rf"\bpinned by (?:{names})\b", f"pinned by {USER}", text)
    text = _PINS.sub(_with_user, text)
    text = re.sub(rf"(\bevents? of|\bnothing new of|\u2713) {re.escape(host)}\b", rf"\1 {HOST}", text)
    text = re.sub(rf"^{re.escape(host)}  (?=just now|\d|log )", f"{HOST}  ", text, flags=re.MULTILINE)
    text = _of_hosts(host).sub(lambda found: _with_host(found, host), text)
    wider = len(f"{USER}@{HOST}") - len(f"{here.login or user}@{host}")
    text = _WHO.sub(lambda found: found[0] + " " * max(0, wider), text)
    if platform.machine() not in ("x86_64", "AMD64"):
        text = _OTHER_PLATFORM.sub("", text)
    return _PADDING.sub("", text)


def _with_user(table: re.Match[str]) -> str:
    """The table of pins with the fictitious user in its third column, as wide as that needs."""
    begin, end = table.start(2) - table.start(), table.end(2) - table.start()
    width = len(USER) + 3
    header, *lines = table[0].splitlines(keepends=True)
    rows = [f"{line[:begin]}{USER.ljust(width)}{line[end:]}" for line in lines]
    return "".join([f"{header[:begin]}{'BY'.ljust(width)}{header[end:]}", *rows])


def _of_hosts(host: str) -> re.Pattern[str]:
    """A table whose first column has hosts, each this one; below a row may be more of it, indented."""
    return re.compile(rf"^(HOST +).*\n(?:(?:{re.escape(host)} | {{4}}).*\n)+", re.MULTILINE)


def _with_host(table: re.Match[str], host: str) -> str:
    """The same with the fictitious host, as wide as that needs."""
    before = len(table[1])
    width = before + max(4, len(HOST)) - max(4, len(host))
    header, *lines = table[0].splitlines(keepends=True)
    return "".join(
        line if line.startswith("    ") else f"{first.ljust(width)}{line[before:]}"
        for first, line in [("HOST", header), *((HOST, each) for each in lines)]
    )


_AGO = re.compile(r"\bjust now\b|\b\d+ minutes? ago\b")


def masked(text: str) -> str:
    """The text without what differs between two runs of the same commands.

    Columns of a table that says how long ago something was are as wide as that needs, and sentences end where
    there is room.
    """
    if _AGO.search(text):
        text = re.sub(r"(?<=\S)\n {10,}(?=\S)", " ", _AGO.sub("<ago>", text))
        text = re.sub(r"(?<=\S) {2,}(?=\S)", "  ", text)
    text = _CHANGED_BY.sub("seen by charlie@laptop", _NOT_TOLD.sub("", text))
    # Of times the digits only: how they are written, and their offset, are the document's to say.
    text = _TIME.sub(lambda found: re.sub(r"\d", "0", found[0]), text)
    for pattern, instead in _MASKS:
        text = pattern.sub(instead, text)
    return text
