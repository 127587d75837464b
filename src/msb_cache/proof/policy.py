"""Whose signatures make a checkpoint one to believe: policy files, as C2SP's tlog-policy.

A file is one of octets: names are compared as they are written, and no Unicode is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import replace

from msb_cache.errors import InvalidConfigError, InvalidProofError
from msb_cache.proof.note import Note
from msb_cache.proof.tree_head import head_of
from msb_cache.proof.vkey import COSIGNATURE, PRIVATE, VerifierKey
from msb_cache.shapes import Result, Time
from msb_cache.wording import as_text, plural

MAX_POLICY = 64 * 1024
"""Bytes of a policy file."""

MOST_LINES = 4096
"""Lines of one."""

NO_QUORUM = "none"
"""The quorum of who asks for no cosignature."""

_CONTROL = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_SPACE = re.compile(r"[ \t]+")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,4}")
LAST_YEAR = 253_402_300_800
"""Seconds of the epoch at which the year 10000 begins: no time is written beyond that."""
_LISTED = 5  # witnesses that a sentence names


class PolicyLog(Result, Struct, frozen=True):
    """A log whose checkpoints are believed; its key has the name of their origin."""

    key: VerifierKey
    url: str | None = None


class PolicyWitness(Result, Struct, frozen=True):
    """A witness, by the name that it has in the policy alone."""

    name: str
    key: VerifierKey
    url: str | None = None


class PolicyGroup(Result, Struct, frozen=True):
    """Members, witnesses and groups that stand before it, of which at least so many must have cosigned."""

    _is_plain: ClassVar[bool] = True
    name: str
    threshold: int
    members: tuple[str, ...]


class Cosigned(Result, Struct, frozen=True):
    """A witness that cosigned, by its key's name, and when it says it did; ns since the epoch, UTC.

    Of several of its cosignatures the earliest counts.
    """

    name: str
    key: VerifierKey
    cosigned_at_ns: int

    def _shape(self) -> dict[str, object]:
        return {"name": self.name, "key": str(self.key), "cosigned_at": Time(self.cosigned_at_ns)}


class Judgement(Result, Struct, frozen=True):
    """What a policy says of a checkpoint.

    Attributes:
        log: the key of the log that signed it; None: none that is believed did.
        cosigned: the witnesses of the policy that cosigned it.
        problem: why it is not to be believed, in one sentence; None: it is.
    """

    log: VerifierKey | None
    cosigned: tuple[Cosigned, ...] = ()
    problem: str | None = None

    @property
    def fits(self) -> bool:
        """Whether the checkpoint is signed and cosigned as the policy asks."""
        return self.problem is None

    def _shape(self) -> dict[str, object]:
        return {"fits": self.fits, "problem": self.problem, "log": self.log, "cosigned": self.cosigned}


class Policy(Result, Struct, frozen=True):
    """The logs that are believed, the witnesses that are known, and which of these must have cosigned.

    Attributes:
        logs: any one of them may have signed. None: who uses it gives their keys beside it.
        witnesses: in the order of the file.
        groups: each only of what stands before it.
        quorum: the name of a witness or group; ``none``: no cosignature is needed.
    """

    logs: tuple[PolicyLog, ...] = ()
    witnesses: tuple[PolicyWitness, ...] = ()
    groups: tuple[PolicyGroup, ...] = ()
    quorum: str = NO_QUORUM

    @classmethod
    def parse(cls, data: bytes) -> Policy:
        """Return what a policy file says.

        Raises:
            InvalidConfigError: it is none; says in which line.
        """
        if len(data) > MAX_POLICY:
            raise InvalidConfigError(f"the policy has more than {MAX_POLICY:,} bytes")
        if data and not data.endswith(b"\n"):
            raise InvalidConfigError("the policy is cut off: its last line does not end with a line feed")
        lines = data.split(b"\n")[:-1]
        if len(lines) > MOST_LINES:
            raise InvalidConfigError(f"the policy has more than {MOST_LINES:,} lines")
        reader = _Reader()
        for number, line in enumerate(lines, 1):
            try:
                reader.take(line)
            except InvalidConfigError as error:
                raise InvalidConfigError(f"line {number} of the policy {error}") from None
        return reader.policy()

    def with_keys(self, keys: Iterable[VerifierKey]) -> Policy:
        """Return it with more keys: logs that are believed, too, and witnesses that must have cosigned."""
        logs, witnesses = [*self.logs], [*self.witnesses]
        wanted = [] if self.quorum == NO_QUORUM else [self.quorum]
        for key in keys:
            if key.kind != COSIGNATURE:
                if all(key != each.key for each in logs):
                    logs.append(PolicyLog(key))
                continue
            known = next((each.name for each in witnesses if each.key == key), None)
            if known is None:
                known = str(key)
                witnesses.append(PolicyWitness(known, key))
            if known not in wanted:
                wanted.append(known)
        changed = replace(self, logs=tuple(logs), witnesses=tuple(witnesses))
        if wanted in ([], [self.quorum]):
            return changed
        if len(wanted) == 1:
            return replace(changed, quorum=wanted[0])
        # No file can have a name with spaces in it.
        group = PolicyGroup(" ".join(wanted), len(wanted), tuple(wanted))
        return replace(changed, groups=(*self.groups, group), quorum=group.name)

    def judge(self, note: Note) -> Judgement:
        """Return who of the policy signed a checkpoint, and whether that is enough.

        Raises:
            InvalidProofError: the note is no checkpoint.
        """
        origin = head_of(note).origin
        own = [each.key for each in self.logs if each.key.name == origin]
        try:
            signed = note.signed_by(own)
            cosigned = tuple(self._cosigned(note))
        except InvalidProofError as error:
            return Judgement(None, problem=str(error))
        log = signed[0] if signed else None
        return Judgement(log, cosigned, self._problem(origin, known=bool(own), log=log, cosigned=cosigned))

    def _cosigned(self, note: Note) -> Iterator[Cosigned]:
        named = {(each.name, each.key_id) for each in note.signatures}
        known = [each.key for each in self.witnesses]
        for key in note.signed_by(key for key in known if (key.name, key.key_id) in named):
            times = [each.witnessed_at or 0 for each in note.signatures if each.is_of(key)]
            if max(times) >= LAST_YEAR:
                raise InvalidProofError(f"the time of the cosignature of {key.name} is none")
            yield Cosigned(key.name, key, min(times) * 10**9)

    def _problem(
        self, origin: str, *, known: bool, log: VerifierKey | None, cosigned: Sequence[Cosigned]
    ) -> str | None:
        if log is None:
            if not self.logs:
                return "the key of no log is given, so no checkpoint is to be believed"
            if known:
                return f"the checkpoint of {origin!r} is not signed by the key of that log"
            return f"the checkpoint is of the log {origin!r}, of which no key is given"
        keys = {each.key for each in cosigned}
        there = {each.name for each in self.witnesses if each.key in keys}
        counts: dict[str, int] = {}
        for group in self.groups:  # in their order: the members of each stand before it
            counts[group.name] = sum(member in there for member in group.members)
            if counts[group.name] >= group.threshold:
                there.add(group.name)
        if self.quorum in (NO_QUORUM, *there):
            return None
        groups = {each.name: each for each in self.groups}
        asked = groups.get(self.quorum) or PolicyGroup(self.quorum, 1, (self.quorum,))
        found = counts.get(self.quorum, 0)
        noun = "member" if any(each in groups for each in asked.members) else "cosignature"
        lacking = {self.quorum}
        for group in reversed(self.groups):
            if group.name in lacking:
                lacking.update(member for member in group.members if member not in there)
        missing = [each for each in self.witnesses if each.name in lacking]
        there_are = f"{found} of the {plural(asked.threshold, noun)} that the quorum asks for"
        if asked.threshold == 1:
            there_are = f"no {noun} that the quorum asks for"
        are = "is" if 1 in (found, asked.threshold) else "are"
        return f"{there_are} {are} there; {_listed(missing)} not cosigned"


def policy_of(keys: Iterable[VerifierKey]) -> Policy:
    """Return the policy of keys alone: of logs that are believed, of witnesses that must have cosigned."""
    return Policy().with_keys(keys)


def trusted(keys: Iterable[str | VerifierKey], policy: bytes | None) -> Policy:
    """Return whom somebody believes who names keys, a policy file, or both; both must hold then.

    Raises:
        InvalidConfigError: a key or the policy is none, or none of a log is given.
    """
    asked = Policy() if policy is None else Policy.parse(policy)
    asked = asked.with_keys(VerifierKey.parse(each) if isinstance(each, str) else each for each in keys)
    if not asked.logs:
        raise InvalidConfigError("give the verifier key of the log that is believed, or a policy that has it")
    return asked


def _listed(witnesses: Sequence[PolicyWitness]) -> str:
    names = [as_text(each.key.name) for each in witnesses[:_LISTED]]
    more = len(witnesses) - len(names)
    return (
        f"{', '.join(names)}{f' and {more} more' if more else ''} {'has' if len(witnesses) == 1 else 'have'}"
    )


class _Reader:
    """Follows a policy file line by line; an error is the rest of a sentence that begins with the line."""

    def __init__(self) -> None:
        self._logs: list[PolicyLog] = []
        self._witnesses: list[PolicyWitness] = []
        self._groups: list[PolicyGroup] = []
        self._quorum: str | None = None
        self._names: set[str] = set()
        self._members: set[str] = set()

    def take(self, line: bytes) -> None:
        if _CONTROL.search(line):
            odd = "ends as lines of Windows do" if line.endswith(b"\r") else "has a control character"
            raise InvalidConfigError(f"{odd}, and a policy has none")
        # One character for each octet that is no UTF-8: two names are the same only if all octets are.
        text = line.decode("utf-8", "surrogateescape").strip(" \t")
        if not text or text.startswith("#"):
            return
        keyword, *items = _SPACE.split(text)
        reads = {"log": self._log, "witness": self._witness, "group": self._group, "quorum": self._set_quorum}
        read = reads.get(keyword)
        if read is None:
            if keyword.startswith(PRIVATE):  # which no error may show
                raise InvalidConfigError("is a secret key; a policy has the verifier keys of `key show`")
            raise InvalidConfigError(
                f"begins with {keyword[:40]!r}; there are log, witness, group and quorum"
            )
        read(items)

    def policy(self) -> Policy:
        if self._quorum is None:
            raise InvalidConfigError("the policy has no quorum; `quorum none` asks for no cosignature")
        return Policy(tuple(self._logs), tuple(self._witnesses), tuple(self._groups), self._quorum)

    def _log(self, items: list[str]) -> None:
        if len(items) not in (1, 2):
            raise InvalidConfigError("names no log: write `log VKEY`, and its URL behind that or none")
        key = _key(items[0], witness=False)
        if any(each.key.public == key.public for each in self._logs):
            raise InvalidConfigError("has the key of a log that stands before it")
        self._logs.append(PolicyLog(key, *items[1:]))

    def _witness(self, items: list[str]) -> None:
        if len(items) not in (2, 3):
            raise InvalidConfigError(
                "names no witness: write `witness NAME VKEY`, and its URL behind that or none"
            )
        key = _key(items[1], witness=True)
        if any(each.key.public == key.public for each in self._witnesses):
            raise InvalidConfigError("has the key of a witness that stands before it")
        self._witnesses.append(PolicyWitness(self._new(items[0]), key, *items[2:]))

    def _group(self, items: list[str]) -> None:
        if len(items) < 3:
            raise InvalidConfigError("names no group: write `group NAME all|any|NUMBER MEMBER…`")
        name, number, *members = items
        for member in members:
            self._check_known(member)
            if member in self._members:
                raise InvalidConfigError(f"has the member {member!r}, and that is a member already")
            self._members.add(member)
        if number in ("all", "any"):
            threshold = len(members) if number == "all" else 1
        elif _THRESHOLD.fullmatch(number) and int(number) <= len(members):
            threshold = int(number)
        else:
            raise InvalidConfigError(
                f"asks for {number[:40]!r} of {plural(len(members), 'member')}; "
                "write all, any or a number up to that"
            )
        self._groups.append(PolicyGroup(self._new(name), threshold, tuple(members)))

    def _set_quorum(self, items: list[str]) -> None:
        if self._quorum is not None:
            raise InvalidConfigError("is a second quorum, and there is one")
        if len(items) != 1:
            raise InvalidConfigError("names no quorum: write `quorum NAME` or `quorum none`")
        if items[0] != NO_QUORUM:
            self._check_known(items[0])
        self._quorum = items[0]

    def _new(self, name: str) -> str:
        if name == NO_QUORUM:
            raise InvalidConfigError(f"has the name {NO_QUORUM!r}, which means that there is no quorum")
        if name in self._names:
            raise InvalidConfigError(f"has the name {name!r}, which stands before it")
        self._names.add(name)
        return name

    def _check_known(self, name: str) -> None:
        if name == NO_QUORUM:
            raise InvalidConfigError(f"has the member {NO_QUORUM!r}, which is none")
        if name not in self._names:
            raise InvalidConfigError(f"names {name!r}, and no line before it does")


def _key(text: str, *, witness: bool) -> VerifierKey:
    try:
        key = VerifierKey.parse(text)
    except InvalidConfigError as error:
        raise InvalidConfigError(f"has no key: {error}") from None
    if (key.kind == COSIGNATURE) != witness:
        whose = "a log, and no witness" if witness else "a witness, and no log"
        raise InvalidConfigError(f"has the key of {whose}: {key.name!r} is of kind {key.kind}")
    return key
