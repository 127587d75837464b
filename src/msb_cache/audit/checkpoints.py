"""Checkpoints of a home's log: of it as it is now, signed, cosigned by witnesses, and kept in the home.

What is signed is never taken on trust. The events since the last signed checkpoint are read and checked, and
the root is recomputed from them and from what that checkpoint proves; kept hashes only say where to look.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from msb_cache.audit.witnesses import NotCosigned, Submitted, WitnessClient, submit_all
from msb_cache.errors import (
    CorruptLogError,
    InvalidConfigError,
    InvalidProofError,
    LogError,
    MicrosandboxError,
    SigningError,
)
from msb_cache.eventstore import chain, merkle, subtrees
from msb_cache.eventstore.chain import Checker
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.subtrees import LogTree
from msb_cache.failpoints import reached
from msb_cache.oci.digest import shown
from msb_cache.proof import kept
from msb_cache.proof.kept import KeptCheckpoint
from msb_cache.proof.note import Note, Signature, is_valid, parse
from msb_cache.proof.policy import LAST_YEAR, Policy
from msb_cache.proof.signer import sign as signature_of
from msb_cache.proof.tree_head import TreeHead
from msb_cache.proof.vkey import ED25519, VerifierKey, checked_name
from msb_cache.shapes import Result, Time, fields
from msb_cache.wording import plural

if TYPE_CHECKING:
    import sqlite3

    from msb_cache.home.ledger import Ledger
    from msb_cache.proof.signer import Signer
    from msb_cache.session import Session

_LOOKED_BACK = 100
"""So many signed checkpoints are looked through for the last that a witness has cosigned."""

_TRIES = 5
"""So often a log is signed that other processes sign meanwhile."""

_AT_A_TIME = 1 << 16
"""So many events' hashes are kept in one transaction, which takes a tenth of a second."""


class Cosignature(Result, Struct, frozen=True):
    """A witness's word that it saw a checkpoint, and when, in ns since the epoch, UTC."""

    name: str
    at_ns: int

    def _shape(self) -> dict[str, Any]:
        return {"name": self.name, "at": Time(self.at_ns)}


class Signing(Struct, frozen=True):
    """Who signs a log's checkpoints, which witnesses cosign them, and which of these must have.

    Attributes:
        signer: has the log's key.
        witnesses: who is asked.
        policy: what a policy file (C2SP's tlog-policy) has: whose signatures are needed; None: those of all
            who are asked.
    """

    signer: Signer
    witnesses: tuple[WitnessClient, ...] = ()
    policy: bytes | None = None

    @classmethod
    def of(
        cls,
        signer: Signer,
        *,
        urls: Iterable[str] = (),
        keys: Iterable[VerifierKey] = (),
        policy: bytes | None = None,
        ca_certs: Path | None = None,
    ) -> Signing:
        """Return it as a person says it.

        Args:
            signer: has the log's key.
            urls: of witnesses, beside those that the policy names with one.
            keys: of witnesses, beside those of the policy; whoever answers at ``urls`` signs with one of all.
            policy: what a policy file has; None: there is none.
            ca_certs: a PEM file of authorities that are trusted beside the system's.

        Raises:
            InvalidConfigError: a URL or the policy cannot be used, or no key of a witness is known.
        """
        known = () if policy is None else Policy.parse(policy).witnesses
        trusted = [*keys, *(each.key for each in known)]
        asked: dict[str, tuple[VerifierKey, ...]] = {
            each.url: (each.key,) for each in known if each.url is not None
        }
        for url in urls:
            if not trusted:
                raise InvalidConfigError(
                    f"whose word that of {shown(url)} is can only be told by its key; give "
                    "--witness-key VKEY, or a policy that names it"
                )
            asked.setdefault(url, tuple(trusted))
        clients = (WitnessClient(url, each, ca_certs=ca_certs) for url, each in asked.items())
        return cls(signer, tuple(clients), policy)


class Checkpoint(Result, Struct, frozen=True, kw_only=True):
    """A log up to a position, by the root of the Merkle tree over its events' hashes.

    Attributes:
        origin: the log's name: its key's, or one that is made of its id.
        size: the number of events.
        root: the root, 32 bytes.
        log_id: the log's id; None, as the two below: the log has no such event any more.
        head: the hash of the last event, 32 bytes.
        recorded_at_ns: when that was recorded, in ns since the epoch, UTC.
        note: the text to keep elsewhere: a checkpoint of C2SP with its signatures.
        signed_at_ns: when this home signed it; None: it is not signed.
        signed_by: the name of the key; None: it is not signed.
        cosigned: which witnesses have cosigned it.
        asked: what each witness said that was asked now.
        problem: why it is not signed by all that were needed, as a sentence; None: it is.
    """

    origin: str
    size: int
    root: bytes
    log_id: str | None
    head: bytes | None
    recorded_at_ns: int | None
    note: str
    signed_at_ns: int | None = None
    signed_by: str | None = None
    cosigned: tuple[Cosignature, ...] = ()
    asked: tuple[Submitted | NotCosigned, ...] = ()
    problem: str | None = None

    def _shape(self) -> dict[str, Any]:
        return {**fields(self), "root": base64.b64encode(self.root).decode()}


def take(session: Session, origin: str | None) -> Checkpoint:
    """Return what fixes the log as it is now; parameters and errors as for ``ImageCache.checkpoint``."""
    ledger = session.ledger
    _keep_subtrees(ledger)
    with ledger.read() as connection:
        known = _head(ledger, connection)
        assert connection is not None  # noqa: S101
        root = LogTree(connection, known.seq).root()
    name = f"msb-cache/{known.log_id}" if origin is None else checked_name(origin)
    head = TreeHead(name, known.seq, root)
    return _checkpoint(head, Note(head.text), known)


def sign(session: Session, signer: Signer) -> Checkpoint:
    """Sign the log as it is now, and keep that; parameters and errors as for ``ImageCache.checkpoint``."""
    for _ in range(_TRIES):
        found = _sign_once(session, signer)
        if found is not None:
            return found
    raise LogError("other processes sign the log all the time, so this one could not; try again")


def _sign_once(session: Session, signer: Signer) -> Checkpoint | None:
    """Sign, and keep that; None: another process has signed meanwhile, from which it goes on."""
    ledger = session.ledger
    ledger.check_writable()
    _keep_subtrees(ledger)
    origin = signer.key.name
    with ledger.read() as connection:
        _head(ledger, connection)
        assert connection is not None  # noqa: S101
        before = kept.last(connection, origin)
    known, root = _proved(ledger, before, signer)
    if before is not None and before.head.size == known.seq:
        note = before.note  # the same log: Ed25519 gives the same signature, too
        if _has_signed(signer.key, note):
            return _checkpoint(before.head, note, known, before.signed_at_ns)
    head = TreeHead(origin, known.seq, root)
    signature = signature_of(head.text, signer)
    if not is_valid(head.text, signature, signer.key):
        raise SigningError(f"what signs for {origin} has another key, so nothing is signed")
    note, now = Note(head.text, (signature,)), ledger.clock()
    reached("checkpoint.signed")
    with ledger.write(uuid7(), owner="any") as transaction:
        found = _at(transaction.connection, known.seq)
        if found != known:
            raise LogError("the log was put back while it was signed; nothing was kept, try again")
        last = kept.last(transaction.connection, origin)
        if (last and last.head) != (before and before.head):
            # What the key has said by that may be of another log than this: it was not looked at yet.
            return None
        kept.keep(transaction.connection, note, now)
    return _checkpoint(head, note, known, now)


def attest(session: Session, signing: Signing) -> Checkpoint:
    """Sign the log as it is now, and have that cosigned; for the rest see ``ImageCache.checkpoint``."""
    taken = _attested(session, signing)
    ahead = max((each.size or 0 for each in taken.asked if isinstance(each, NotCosigned)), default=0)
    if ahead:
        with session.ledger.read() as connection:
            if _head(session.ledger, connection).seq >= ahead:
                # Another process has submitted the log as it is now, since this one signed it.
                return _attested(session, signing)
    return taken


def _attested(session: Session, signing: Signing) -> Checkpoint:
    return cosign(session, signing, sign(session, signing.signer))


def cosign(session: Session, signing: Signing, taken: Checkpoint) -> Checkpoint:
    """Have a signed checkpoint cosigned, and keep that; return it with what each witness said."""
    note = parse(taken.note.encode())
    if not signing.witnesses:
        return replace(taken, problem=problem_of(signing, taken.note, ()))
    asked = submit_all(
        signing.witnesses,
        note,
        taken.size,
        partial(consistency_path, session, taken),
        partial(_known_to, session, taken.origin),
        log_key=signing.signer.key,
        say=session.note,
    )
    reached("checkpoint.cosigned")
    added = [line for each in asked if isinstance(each, Submitted) for line in each.signatures]
    taken = add_cosignatures(session, taken, added)
    return replace(taken, asked=tuple(asked), problem=problem_of(signing, taken.note, asked))


def problem_of(signing: Signing, note: str, asked: Iterable[Submitted | NotCosigned]) -> str | None:
    """Return why a checkpoint is not signed by all that are needed, as a sentence; None: it is."""
    if signing.policy is None:
        return next((each.problem for each in asked if isinstance(each, NotCosigned)), None)
    policy = Policy.parse(signing.policy).with_keys([signing.signer.key])
    return policy.judge(parse(note.encode())).problem


def _known_to(session: Session, origin: str, witness: WitnessClient) -> int:
    """Return the size of the last checkpoint that a witness has cosigned, as far as this home knows."""
    with session.ledger.read() as connection:
        if connection is None:
            return 0
        for each in islice(kept.of(connection, origin, reverse=True), _LOOKED_BACK):
            if any(line.is_of(key) for line in each.note.signatures for key in witness.keys):
                return each.head.size
    return 0  # which it answers with the size that it knows


def signed(session: Session, origin: str | None) -> list[Checkpoint]:
    """Return the signed checkpoints that the home keeps, the largest first."""
    with session.ledger.read() as connection:
        if connection is None:
            return []
        return [_kept(connection, each) for each in kept.of(connection, origin, reverse=True)]


def signed_one(session: Session, size: int | None, origin: str | None) -> Checkpoint:
    """Return one of them; parameters and errors as for ``ImageCache.signed_checkpoint``."""
    with session.ledger.read() as connection:
        if connection is not None:
            for each in kept.of(connection, origin, least=size or 0, reverse=size is None):
                if size in (None, each.head.size):
                    return _kept(connection, each)
    raise _none_signed(size, origin)


def forget(session: Session, size: int, origin: str | None) -> int:
    """Forget signed checkpoints; parameters, result and errors as for ``ImageCache.forget_checkpoint``."""
    session.ledger.check_writable()
    count = 0
    with session.ledger.read() as connection:
        is_there = connection is not None
    if is_there:
        with session.ledger.write(uuid7(), owner="any") as transaction:
            count = kept.forget(transaction.connection, origin, size)
    if not count:
        raise _none_signed(size, origin)
    return count


def _none_signed(size: int | None, origin: str | None) -> LogError:
    named = "" if origin is None else f" as {origin}"
    which = "nothing was signed" if size is None else f"no checkpoint of {plural(size, 'event')} was signed"
    return LogError(f"{which}{named} in this home; `msb-cache checkpoints` lists what was")


def _kept(connection: sqlite3.Connection, each: KeptCheckpoint) -> Checkpoint:
    return _checkpoint(each.head, each.note, _at(connection, each.head.size), each.signed_at_ns)


def add_cosignatures(session: Session, taken: Checkpoint, signatures: Iterable[Signature]) -> Checkpoint:
    """Keep what witnesses said of a signed checkpoint; return it with that."""
    added = tuple(signatures)
    if not added:
        return taken
    with session.ledger.write(uuid7(), owner="any") as transaction:
        found = kept.at(transaction.connection, taken.origin, taken.size)
        if found is None or found.head.root != taken.root:
            raise LogError("the log was put back while witnesses were asked; nothing was kept, try again")
        note = kept.add_signatures(transaction.connection, found, added)
    return replace(taken, note=str(note), cosigned=_cosigned(note))


def consistency_path(session: Session, taken: Checkpoint, old: int) -> Sequence[bytes]:
    """Return what proves to a witness that a checkpoint goes on from one of ``old`` events.

    Raises:
        CorruptLogError: the hashes that are kept of the log do not prove it.
    """
    if not old:
        return []
    with session.ledger.read() as connection:
        assert connection is not None  # noqa: S101
        tree = LogTree(connection, taken.size)
        path = tree.consistency_path(old)
        if not merkle.is_consistent(old, taken.size, tree.root(old), taken.root, path):
            raise CorruptLogError(_WRONG_SUBTREES)
        return path


_WRONG_SUBTREES = (
    "the hashes that are kept of the log's tree are not those of its events; "
    "`msb-cache rebuild` makes them anew"
)


def check_key(key: VerifierKey, origin: str | None) -> None:
    """Refuse a key that signs no log of this name.

    Raises:
        InvalidConfigError: it is a witness's, or has another name.
    """
    if key.kind != ED25519:
        raise InvalidConfigError(
            f"the key {key.name} is a witness's, which signs no log; make one without --witness"
        )
    if origin not in (None, key.name):
        raise InvalidConfigError(
            f"a signed checkpoint has the name of its key as origin, which is {key.name}, not {origin}"
        )


class _Known(Struct, frozen=True):
    """The log up to an event: its position and hash, when it was recorded (ns), and the log's id."""

    seq: int
    hash: bytes
    recorded_at_ns: int
    log_id: str


def _head(ledger: Ledger, connection: sqlite3.Connection | None) -> _Known:
    head = None if connection is None else ledger.store(connection).head()
    found = None if head is None or connection is None else _at(connection, head.seq)
    if found is None:
        raise LogError(f"{ledger.layout.home} has no log yet; `msb-cache pull` or `load` begins one")
    return found


def _at(connection: sqlite3.Connection, seq: int) -> _Known | None:
    row = connection.execute(
        "SELECT seq, hash, recorded_at, (SELECT subject FROM events WHERE seq = 1) FROM events WHERE seq = ?",
        (seq,),
    ).fetchone()
    return None if row is None else _Known(*row)


def _proved(ledger: Ledger, before: KeptCheckpoint | None, signer: Signer) -> tuple[_Known, bytes]:
    """Read what came since a signed checkpoint, or all, and return the log's end and the root up to there.

    Raises:
        CorruptLogError: the log does not verify, or is not the one that was signed.
        LogError: it has fewer events than were signed.
    """
    size = 0 if before is None else before.head.size
    with ledger.read() as connection:
        end = _head(ledger, connection)
        assert connection is not None  # noqa: S101
        is_own = before is not None and _has_signed(signer.key, before.note)
        if end.seq < size and not is_own:
            raise LogError(_not_own(size, signer))
        if end.seq < size:
            raise LogError(
                f"the log has {plural(end.seq, 'event')}, and {size:,} were signed as {signer.key.name}: "
                f"its end was cut off, or it was put back. {_ANOTHER_KEY}"
            )
        begun = _begun(connection, before) if before is not None and is_own else None
        # Where not even the last one is proved, each of them is compared: who can write the home may have
        # put that there.
        roots = {} if begun is not None else _roots(connection, signer.key.name)
    frontier = merkle.Frontier() if begun is None else begun[0]
    checker = Checker() if begun is None else begun[1]
    with ledger.doing("checking the log", "events", end.seq - checker.seq) as count:
        for row, stored in count.each(chain.paged_rows(ledger.read, checker.seq, end.seq)):
            found = checker.check(row, stored)
            if found is not None:
                raise CorruptLogError(f"{found.problem}; only a log that verifies is signed")
            frontier.append(merkle.leaf_hash(stored))
            if frontier.size in roots and frontier.root() != roots[frontier.size]:
                raise CorruptLogError(_another(ledger, frontier.size, signer))
    root = frontier.root()
    with ledger.read() as connection:
        assert connection is not None  # noqa: S101
        if _at(connection, end.seq) != end or checker.head != end.hash:
            raise LogError("the log was put back while it was read; try again")
        if LogTree(connection, end.seq).root() != root:
            ledger.note(_WRONG_SUBTREES)
    return end, root


def _has_signed(key: VerifierKey, note: Note) -> bool:
    """Return whether a key has signed a note; who can write the home can put any other there."""
    try:
        return bool(note.signed_by([key]))
    except InvalidProofError:
        return False


def _roots(connection: sqlite3.Connection, origin: str) -> dict[int, bytes]:
    return {each.head.size: each.head.root for each in kept.of(connection, origin)}


def _another(ledger: Ledger, size: int, signer: Signer) -> str:
    """Return what is wrong with a log that has another root than a kept checkpoint."""
    with ledger.read() as connection:
        found = None if connection is None else kept.at(connection, signer.key.name, size)
    if found is not None and not _has_signed(signer.key, found.note):
        return _not_own(size, signer)
    return (
        f"the log is not the one of which {plural(size, 'event')} were signed as {signer.key.name}: "
        f"it was rewritten. {_ANOTHER_KEY}"
    )


def _not_own(size: int, signer: Signer) -> str:
    return (
        f"this home keeps a checkpoint of {plural(size, 'event')} as {signer.key.name} that is of another "
        "log, and that this key has not signed: it was put there, or the log was rewritten since another key "
        "of that name signed it. Nothing is signed beside it; if it was put there, "
        f"`msb-cache checkpoints forget {size}` takes it out"
    )


_ANOTHER_KEY = (
    "Nothing is signed: that key has signed what this log is not; one that goes on from here needs a key of "
    "another name (`msb-cache key new`)"
)


def _begun(connection: sqlite3.Connection, before: KeptCheckpoint) -> tuple[merkle.Frontier, Checker] | None:
    """Return where the check goes on behind a signed checkpoint; None: it does not prove where.

    The path of its last event holds all that later roots are made of, and leads to the signed root only if
    all of it is right, whoever kept it.
    """
    size = before.head.size
    last = _at(connection, size)
    if last is None or not size:
        return None
    leaf = merkle.leaf_hash(last.hash)
    path = LogTree(connection, size).inclusion_path(size)
    if merkle.root_of_inclusion(leaf, size - 1, size, path) != before.head.root:
        return None  # all of it is read, which tells whether the log is another, or only what is kept of it
    frontier = merkle.Frontier.proved(leaf, size, path)
    return frontier, Checker.behind(size, last.hash, last.log_id, last.recorded_at_ns)


def _keep_subtrees(ledger: Ledger) -> None:
    """Keep what is missing of the tree's hashes, where the home can be written to."""
    with ledger.read() as connection:
        head = None if connection is None else ledger.store(connection).head()
        if connection is None or head is None or subtrees.is_kept(connection, head.seq):
            return
    with suppress(MicrosandboxError, OSError):  # without them a root is made of all events' hashes
        ledger.check_writable()
        with ledger.doing("hashing the log", "events", head.seq) as count:
            done = 0
            while done < head.seq:
                done = min(done + _AT_A_TIME, head.seq)
                with ledger.write(uuid7(), owner="any") as transaction:
                    subtrees.keep(transaction.connection, done)
                count(done)


def _checkpoint(
    head: TreeHead, note: Note, known: _Known | None, signed_at_ns: int | None = None
) -> Checkpoint:
    return Checkpoint(
        origin=head.origin,
        size=head.size,
        root=head.root,
        log_id=None if known is None else known.log_id,
        head=None if known is None else known.hash,
        recorded_at_ns=None if known is None else known.recorded_at_ns,
        note=str(note),
        signed_at_ns=signed_at_ns,
        signed_by=None if signed_at_ns is None else head.origin,
        cosigned=_cosigned(note),
    )


def _cosigned(note: Note) -> tuple[Cosignature, ...]:
    times = ((each.name, each.witnessed_at or 0) for each in note.signatures)
    # Who signed was not asked here, so any number may stand there, also one that is no time.
    return tuple(Cosignature(name, at * 10**9) for name, at in times if 0 < at < LAST_YEAR)
