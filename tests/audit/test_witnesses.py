"""Checkpoints on their way to witnesses: what each answer means, however wrong, and that no wait stays."""

from __future__ import annotations

import base64
import gzip
import os
import signal
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from msb_cache.audit.witnesses import (
    MOST_AT_ONCE,
    TRIES,
    NotCosigned,
    Submitted,
    WitnessClient,
    submit,
    submit_all,
)
from msb_cache.errors import InvalidConfigError, WitnessError
from msb_cache.eventstore import merkle
from msb_cache.oci.registry import network
from msb_cache.proof import submission
from msb_cache.proof.note import Note, Signature, cosigned
from msb_cache.proof.tree_head import TreeHead, head_of
from msb_cache.proof.vkey import VerifierKey
from msb_cache.waiting import ended_by
from tests.rawserver import Act, Closing, RawServer, answer, message, raw
from tests.registry_server import self_signed

ORIGIN = "ci7.example/log"
NAME = "witness.example/w1"
NOW = 1_800_000_000
SIZES = "text/x.tlog.size"


class Key:
    """A secret key with its verifier key."""

    def __init__(self, name: str, kind: int = 4) -> None:
        self._secret = Ed25519PrivateKey.from_private_bytes(sha256(f"{name}{kind}".encode()).digest())
        self.public = VerifierKey(name, 1 if kind == 1 else 4, self._secret.public_key().public_bytes_raw())

    def log_signature(self, text: str) -> Signature:
        return Signature(self.public.name, self.public.key_id, self._secret.sign(text.encode()))

    def cosignature(self, text: str, at: int = NOW) -> Signature:
        signed = at.to_bytes(8, "big") + self._secret.sign(cosigned(text, at))
        return Signature(self.public.name, self.public.key_id, signed)


LOG, KEY, NEW_KEY = Key(ORIGIN, 1), Key(NAME), Key(f"{NAME}/2")


class Log:
    """A log of so many leaves; another seed makes another log."""

    def __init__(self, size: int, seed: int = 0, origin: str = ORIGIN) -> None:
        self._hashes = [merkle.leaf_hash(sha256(b"%d %d" % (seed, each)).digest()) for each in range(size)]
        self.size, self.asked = size, list[int]()
        self.note = self.at(size, origin)

    def at(self, size: int, origin: str = ORIGIN) -> Note:
        text = TreeHead(origin, size, merkle.root(size, self._subtree)).text
        return Note(text, (LOG.log_signature(text),))

    def path_from(self, old: int) -> Sequence[bytes]:
        self.asked.append(old)
        return merkle.consistency_path(old, self.size, self._subtree)

    def _subtree(self, level: int, index: int) -> bytes:
        return merkle.combined(self._hashes[index << level : (index + 1) << level])


SEVEN = Log(7)
TEXT = SEVEN.note.text
GOOD = KEY.cosignature(TEXT).line.encode()


class Witness:
    """A witness that does all as it should: it remembers one size and root of each log that it knows."""

    def __init__(self, *keys: Key, log: Key = LOG) -> None:
        self.keys, self._log = keys, log
        self.known: dict[str, tuple[int, bytes]] = {}

    def __call__(self, connection: socket.socket, body: bytes) -> None:
        connection.sendall(self._answer(submission.parse(body)))

    def _answer(self, asked: submission.Submission) -> bytes:
        head = head_of(asked.note)
        if head.origin != self._log.public.name:
            return message(404, b"")
        if not asked.note.signed_by([self._log.public]):
            return message(403, b"")
        if asked.old > head.size:
            return message(400, b"")
        size, root = self.known.get(head.origin, (0, merkle.EMPTY_ROOT))
        if asked.old != size:
            return message(409, b"%d\n" % size, SIZES)
        if not merkle.is_consistent(size, head.size, root, head.root, asked.path):
            return message(422, b"")
        self.known[head.origin] = head.size, head.root
        lines = [key.cosignature(asked.note.text).line for key in self.keys]
        return message(200, "".join(lines).encode())


def submitted(
    server: RawServer, log: Log = SEVEN, known: int = 0, *keys: VerifierKey, timeout: float = 5
) -> Submitted:
    client = WitnessClient(server.url, keys or (KEY.public,), timeout=timeout)
    return submit(client, log.note, log.size, log.path_from, known, log_key=LOG.public, say=print)


def refusal(*acts: Act, log: Log = SEVEN, known: int = 0, timeout: float = 5) -> WitnessError:
    """What is said of a witness that acts so; without its URL."""
    with RawServer(*acts) as server:
        with pytest.raises(WitnessError) as caught:
            submitted(server, log, known, timeout=timeout)
        sentence = str(caught.value)
        assert f"witness {server.url}" in sentence
        assert "\n" not in sentence
        assert len(sentence) < 600
        caught.value.args = (sentence.replace(f" {server.url}", ""),)
    return caught.value


# --- a witness that does as it should -------------------------------------------------------------


def test_a_checkpoint_is_cosigned_and_the_next_goes_on_from_it() -> None:
    with RawServer(witness := Witness(KEY)) as server:
        first, second = Log(3), Log(7)
        done = submitted(server, first)
        assert done == Submitted(server.url, (KEY.cosignature(first.note.text),), (NAME,), 0, NOW * 10**9)
        assert first.asked == []
        done = submitted(server, second, 3)
        assert (done.old_size, done.keys, second.asked) == (3, (NAME,), [3])
        assert submitted(server, second, 7).old_size == 7  # once more
        assert second.asked == [3]
        assert witness.known == {ORIGIN: (7, head_of(second.note).root)}
        assert second.note.with_signatures(done.signatures).signed_by([LOG.public, KEY.public]) == [
            LOG.public,
            KEY.public,
        ]
        head, body = server.requests[1]
        assert head.startswith(b"POST /w1/add-checkpoint HTTP/1.1\r\n")
        assert body.startswith(b"old 3\n")
        assert body.endswith(f"\n\n{second.note}".encode())


@pytest.mark.parametrize(("known", "is_at"), [(0, 5), (6, 5), (2, 5), (5, 0), (9, 5), (7, 5), (3, 7)])
def test_a_witness_that_is_at_another_size_says_so_and_is_led_on_from_there(known: int, is_at: int) -> None:
    with RawServer(witness := Witness(KEY)) as server:
        if is_at:
            submitted(server, Log(is_at))
        server.requests.clear()
        server.connections = 0
        done = submitted(server, log := Log(7), known)
        assert (done.old_size, len(server.requests), server.connections) == (is_at, 2, 1)
        assert log.asked == [each for each in (min(known, 7), is_at) if 0 < each < 7]
        assert witness.known[ORIGIN][0] == 7


def test_the_first_checkpoint_of_a_log_may_be_that_of_the_empty_one() -> None:
    with RawServer(Witness(KEY)) as server:
        assert submitted(server, Log(0)).old_size == 0


def test_a_witness_may_change_its_key() -> None:
    both = (KEY.public, NEW_KEY.public)
    for keys, known in [((KEY,), both), ((NEW_KEY,), both), ((KEY, NEW_KEY), both)]:
        with RawServer(Witness(*keys)) as server:
            done = submitted(server, SEVEN, 0, *known)
            assert done.keys == tuple(key.public.name for key in keys)
            assert len(done.signatures) == len(keys)
    with RawServer(Witness(KEY, NEW_KEY)) as server:  # that of the other is not believed, and not kept
        done = submitted(server)
        assert (done.keys, done.signatures) == ((NAME,), (KEY.cosignature(TEXT),))


def test_what_comes_of_it_is_plain_data() -> None:
    with RawServer(Witness(KEY)) as server:
        done = submitted(server)
        assert done.to_dict()["witnessed_at"].timestamp() == NOW
        assert '"witnessed_at": "2027-01-15T08:00:00.000000000+00:00"' in done.to_json()
        assert done.to_dict()["signatures"] == [KEY.cosignature(TEXT).line.rstrip()]
    failed = NotCosigned("http://w", "no", 409, 9)
    assert failed.to_dict() == {"witness": "http://w", "problem": "no", "status": 409, "size": 9}
    assert (str(failed.error()), failed.error().status, failed.error().size) == ("no", 409, 9)


# --- what a refusal means -------------------------------------------------------------------------


def size(number: object, content_type: str = SIZES) -> Act:
    return answer(409, f"{number}\n".encode(), content_type)


NO_SIZE = "^the witness answers 409 Conflict without a size that it has cosigned; check the URL$"


@pytest.mark.parametrize(
    ("act", "known", "sentence"),
    [
        (answer(400, b"no\x1b[m "), 0, r"^the witness finds the request malformed: 'no\\x1b\[m'; check that"),
        (
            answer(403),
            0,
            f"^the witness does not accept the signature: it knows another key of {ORIGIN}; "
            f"give its keeper the key {ORIGIN}\\+[0-9a-f]{{8}}\\+A",
        ),
        (
            answer(404),
            0,
            f"^the witness does not know the log {ORIGIN}; give its keeper the key {ORIGIN}\\+.*, or check",
        ),
        (answer(413), 0, "^the witness finds the checkpoint too large; submit it with fewer signatures$"),
        (
            answer(422),
            0,
            f"^the witness finds the checkpoint of {ORIGIN} unsound; check the log with `verify`$",
        ),
        (
            answer(422, b"fork"),
            3,
            f"^the witness finds that {ORIGIN} does not go on from the 3 events that it cosigned: it was "
            "rewritten: 'fork'; compare it with a backup$",
        ),
        (answer(429, headers="Retry-After: 7\r\n"), 0, "answers 429 Too Many .*; try again in 7 seconds$"),
        (answer(429), 0, "answers 429 Too Many Requests; try again later$"),
        (answer(500, b"x" * 100_000), 0, "answers 500 Internal Server Error; try again later$"),
        (answer(599), 0, "answers 599; try again later$"),
        (
            answer(301, headers="Location: https://u:p@w.example/x\r\n"),
            0,
            " to https://w.example, which is not",
        ),
        (
            answer(307, headers="Location: /elsewhere\r\n"),
            0,
            "a redirect, which is not followed; give the URL",
        ),
        (
            answer(308, headers="Location: https://[\r\n"),
            0,
            "a redirect, which is not followed; give the URL",
        ),
        (answer(204), 0, "answers 204 No Content; check the URL$"),
        (answer(401, b"who?"), 0, "answers 401 Unauthorized: 'who\\?'; check the URL$"),
        (answer(404, b"<p>", "text/html"), 0, "answers 404 Not Found with an HTML page: no witness is there"),
        (answer(200, b"<p>", "text/html; charset=x"), 0, "answers 200 OK with an HTML page"),
        (
            size(8),
            0,
            f"^the witness has cosigned 8 events of {ORIGIN}, and this checkpoint has 7: the log's end was "
            "cut off, or it was put back; compare it with a backup$",
        ),
        (size(3), 3, "^the witness contradicts itself: it has cosigned 3 events, and that is refused$"),
        *((size(odd), 0, NO_SIZE) for odd in (10**30, -1, "", "03", "1_0", "٣", " 3", "3\n", "3\r", "x")),
        (size(3, "text/plain"), 0, NO_SIZE),
        (answer(409, b"3", SIZES), 0, NO_SIZE),
        (answer(409, b"3\n" * 40_000, SIZES), 0, NO_SIZE),
    ],
)
def test_refused(act: Act, known: int, sentence: str) -> None:
    error = refusal(act, known=known)
    assert error.status is not None
    with pytest.raises(WitnessError, match=sentence):
        raise error


def test_what_is_wrong_with_the_size_can_be_looked_at() -> None:
    error = refusal(size(10**17))
    assert (error.status, error.size) == (409, 10**17)
    assert refusal(answer(404)).size is None


def test_a_log_without_a_key_to_show_is_described() -> None:
    with RawServer(answer(403)) as server:
        client = WitnessClient(server.url, [KEY.public])
        with pytest.raises(WitnessError, match=r"; give its keeper the verifier key of the log$"):
            submit(client, SEVEN.note, 7, SEVEN.path_from, say=print)


def test_a_log_that_was_rewritten_or_cut_off_is_found() -> None:
    with RawServer(Witness(KEY)) as server:
        submitted(server)
        with pytest.raises(WitnessError, match="from the 7 events that it cosigned: it was rewritten"):
            submitted(server, Log(9, seed=1), 7)
        with pytest.raises(WitnessError, match="from the 7 events that it cosigned: it was rewritten"):
            submitted(server, Log(7, seed=1))
        with pytest.raises(WitnessError, match=r"cosigned 7 events of .*, and this checkpoint has 5"):
            submitted(server, Log(5), 5)
        with pytest.raises(WitnessError, match=r"does not know the log other\.example"):
            submitted(server, Log(9, origin="other.example"), 7)


def test_a_witness_that_says_another_size_each_time_is_asked_a_few_times() -> None:
    sizes = iter(range(1, 7))

    def act(connection: socket.socket, body: bytes) -> None:
        connection.sendall(message(409, b"%d\n" % next(sizes), SIZES))

    error = refusal(act)
    assert "has cosigned another checkpoint each time that it was asked; try again later" in str(error)
    assert (next(sizes), error.status) == (TRIES + 1, 409)


# --- what is no cosignature -----------------------------------------------------------------------


def line(signature: Signature) -> bytes:
    return signature.line.encode()


OTHER = KEY.cosignature(Log(7, origin="other.example").note.text)
FORGED = Signature(NAME, KEY.public.key_id, NOW.to_bytes(8, "big") + bytes(64))
STRANGER = Key("stranger.example").cosignature(TEXT)
NOT_OF_IT = "^the witness answers with a signature that is not of its key over this checkpoint$"
NO_LINE = (
    "^the checkpoint as the witness cosigned it has a line below it that is no signature; check the URL$"
)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "^the answer of the witness is empty; check the URL$"),
        (GOOD[:-1], "^the answer of the witness is cut off: it does not end with a line feed"),
        (GOOD.replace(b"\n", b"\r\n"), "^the answer of the witness has line ends of Windows"),
        (GOOD + b"\x00\n", "has control characters"),
        (GOOD.replace(b"\xe2", b"\xff"), "is no UTF-8 text"),
        (GOOD + b"\n", NO_LINE),
        (b"\n" + GOOD, NO_LINE),
        (f"{TEXT}\n".encode() + GOOD, NO_LINE),
        (GOOD.replace(b"=\n", b"\n"), NO_LINE),
        (GOOD[:-8] + b"!!!=\n", NO_LINE),
        (GOOD.replace(b" witness", b"  witness"), NO_LINE),
        ("\u2014 w.example AAAA\n".encode(), NO_LINE),
        (f"\u2014 {'w' * 300} AAAAAAAA\n".encode(), NO_LINE),
        (GOOD * 101, "has more than 100 signatures"),
        (b"x" * 70_000 + b"\n", "^the witness answers with more than 65,536 bytes; check the URL$"),
        (line(OTHER), NOT_OF_IT),
        (line(FORGED), NOT_OF_IT),
        (GOOD + line(FORGED), NOT_OF_IT),
        (line(FORGED) + GOOD, NOT_OF_IT),
        (line(KEY.cosignature(TEXT, 0)), NOT_OF_IT),
        (line(KEY.cosignature(TEXT, 2**63)), NOT_OF_IT),
        (
            line(LOG.log_signature(TEXT)),
            "answers with signatures of ci7.example/log only, and its key is wit",
        ),
        (
            line(STRANGER),
            "with signatures of stranger.example only, and its key is witness.example/w1; if it",
        ),
        (
            b"".join(line(Key(f"{each:0200}").cosignature(TEXT)) for each in range(50)),
            "answers with signatures of 0+…, 0+…, 0+… only, and its key is",
        ),
        (line(KEY.cosignature(TEXT, 2**62)), "says that it cosigned at a time that no calendar has$"),
    ],
)
def test_no_cosignature(body: bytes, sentence: str) -> None:
    error = refusal(answer(200, body))
    assert error.status == 200
    with pytest.raises(WitnessError, match=sentence):
        raise error


def test_unknown_signatures_beside_it_count_for_nothing() -> None:
    again = KEY.cosignature(TEXT, NOW + 9)
    same_name = Signature(NAME, b"abcd", b"of a kind that nobody knows" * 90)
    body = line(STRANGER) + GOOD + line(same_name) + line(again)
    with RawServer(answer(200, body, "application/x-anything")) as server:
        done = submitted(server)
    assert (done.keys, done.signatures) == ((NAME,), (again,))
    assert done.witnessed_at_ns == (NOW + 9) * 10**9


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    with RawServer(answer(200, bomb, headers="Content-Encoding: gzip\r\n")) as server:
        tracemalloc.start()
        with pytest.raises(WitnessError, match=r"answers in an encoding that was not asked for$"):
            submitted(server)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert b"\r\naccept-encoding: identity\r\n" in server.requests[0][0].lower()
    assert peak < 20 << 20


# --- what is no HTTP, or never ends ---------------------------------------------------------------


def endless(begin: bytes, piece: bytes, pause: float = 0.0) -> Act:
    """Begin an answer that does not end before the asker goes."""

    def act(connection: socket.socket, body: bytes) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(piece)
            time.sleep(pause)

    return act


def silent(connection: socket.socket, body: bytes) -> None:
    """Say nothing until the asker goes."""
    with suppress(TimeoutError):
        connection.recv(1)
    raise Closing


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BROKE_OFF = "^the connection to the witness broke off$"
IMPROPER = "^the witness does not answer in proper HTTP$"
NO_END = "^the answer of the witness does not come to its end$"
TOO_SLOW = "^the witness does not answer to the end in 1.2 seconds$"
NOTHING = "^the witness does not answer within 0.3 seconds$"
TOO_LONG = "^the witness answers with more than 65,536 bytes"


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (raw(b""), BROKE_OFF),
        (raw(b"SSH-2.0-OpenSSH_9\r\n"), IMPROPER),
        (raw(OK + b"A: b\r\n" * 200 + b"\r\n"), IMPROPER),
        (endless(OK + b"A: ", b"x" * 65536), IMPROPER),
        (endless(OK, b"A: b\r\n"), IMPROPER),
        (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), NOTHING),
        (endless(OK, b"A", 0.01), NOTHING),
        (silent, NOTHING),
        (endless(OK + b"\r\n", b"x" * 65536), TOO_LONG),
        (endless(OK + b"Content-Length: 4294967296\r\n\r\n", b"x" * 65536), TOO_LONG),
        (raw(OK + b"Content-Length: 9" + b"9" * 100 + b"\r\n\r\n" + GOOD), TOO_LONG),
        (endless(OK + CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"), TOO_LONG),
        (endless(OK + CHUNKED, b"1\r\nx\r\n", 0.01), "more than|" + TOO_SLOW),
        # A machine that is busy has not read as much by then.
        (endless(OK + CHUNKED, b"0"), f"{NO_END}|{TOO_SLOW}"),
        (endless(OK + CHUNKED + b"0\r\n", b"A: b\r\n" * 1000), f"{NO_END}|{TOO_SLOW}"),
        (raw(OK + CHUNKED + b"zz\r\n"), NO_END),
        (endless(OK + b"\r\n", b"x", 0.02), TOO_SLOW),
        (endless(OK + b"Content-Length: 9000\r\n\r\n", b"x", 0.02), TOO_SLOW),
        (raw(OK + b"Content-Length: 9000\r\n\r\nx"), NO_END),
        (endless(OK + b"Content-Length: 0\r\n" + CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"), TOO_LONG),
        (
            endless(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n" + CHUNKED, b"1000\r\n" + b"x" * 4098),
            "not know",
        ),
        (endless(b"HTTP/1.1 403 X\r\n\r\n", b"x", 0.02), TOO_SLOW),
        (endless(b"HTTP/1.1 409 X\r\nContent-Type: text/x.tlog.size\r\n\r\n", b"0"), NO_SIZE),
    ],
)
def test_hostile(act: Act, sentence: str) -> None:
    tracemalloc.start()
    began = time.monotonic()
    error = refusal(act, timeout=0.3)
    seconds = time.monotonic() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    with pytest.raises(WitnessError, match=sentence):
        raise error
    assert seconds < 5
    assert peak < 16 << 20


def test_a_witness_that_reads_slowly_or_not_at_all() -> None:
    """What is sent has room in the kernel's buffers or not; both end."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        text = SEVEN.note.text + "".join(f"{each:0999}\n" for each in range(60_000))
        began = time.monotonic()
        with pytest.raises(WitnessError, match=r"does not answer|broke off"):
            submit(
                WitnessClient(url, [KEY.public], timeout=0.2),
                Note(text, SEVEN.note.signatures),
                7,
                SEVEN.path_from,
                say=print,
            )
        assert time.monotonic() - began < 5


def test_nobody_is_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = WitnessClient(f"http://127.0.0.1:{unused.getsockname()[1]}", [KEY.public])
        with pytest.raises(WitnessError, match=r"cannot be reached \(Connection refused\)$") as caught:
            submit(client, SEVEN.note, 7, SEVEN.path_from, say=print)
    assert caught.value.status is None


def test_certificates_are_verified(tmp_path: Path, require_peer: Callable[[str], str]) -> None:
    certificate = self_signed(require_peer("openssl"), tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with RawServer(Witness(KEY), tls=context) as server:
        client = WitnessClient(server.url, [KEY.public])
        with pytest.raises(WitnessError, match=r"the certificate of the witness https://.* is not trusted"):
            submit(client, SEVEN.note, 7, SEVEN.path_from, say=print)
        assert server.requests == []
        for given in ({"ca_certs": certificate}, {"insecure": True}):
            client = WitnessClient(server.url, [KEY.public], **given)  # type: ignore[arg-type]
            assert submit(client, SEVEN.note, 7, SEVEN.path_from, 7, say=print).keys == (NAME,)


# --- how it is reached ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        *(
            (odd, "is no web address in ASCII")
            for odd in ("", "w", "ftp://w/", "http://w:0", "http://ä", "unix:/x")
        ),
        (f"http://w/{'x' * 1024}", "is no web address in ASCII"),
        ("https://user:hidden@w/", "has a login in it"),
        ("https://w/x?hidden", r"^the URL of the witness at w goes on with \? or #"),
        ("https://w/x#hidden", r"^the URL of the witness at w goes on with \? or #"),
        ("https://w/x?", r"^the URL of the witness at w goes on with \? or #"),
    ],
)
def test_other_urls_are_refused(url: str, sentence: str) -> None:
    with pytest.raises(InvalidConfigError, match=sentence) as caught:
        WitnessClient(url, [KEY.public])
    assert "hidden" not in str(caught.value)


def test_what_else_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidConfigError, match=r"^the witness https://w/x is known by no key"):
        WitnessClient("https://w/x/", [])
    with pytest.raises(
        InvalidConfigError, match=r"the key ci7\.example/log is a log's; give that of the witness"
    ):
        WitnessClient("https://w", [LOG.public])
    with pytest.raises(InvalidConfigError, match="a timeout is more than 0 seconds, not 0"):
        WitnessClient("https://w", [KEY.public], timeout=0)


def test_the_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(Witness(KEY)) as server:
        monkeypatch.setenv("http_proxy", f"http://{server.host}")
        client = WitnessClient("http://witness.test/w1/", [KEY.public])
        assert submit(client, SEVEN.note, 7, SEVEN.path_from, say=print).witness == "http://witness.test/w1/"
        assert server.requests[0][0].startswith(b"POST http://witness.test/w1/add-checkpoint HTTP/1.1\r\n")
    monkeypatch.setenv("http_proxy", "nonsense://")
    with pytest.raises(InvalidConfigError, match="HTTP_PROXY does not name"):
        submit(client, SEVEN.note, 7, SEVEN.path_from, say=print)


# --- waits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [silent, endless(OK + b"\r\n", b"x", 0.02), endless(OK, b"A", 0.02)])
@pytest.mark.parametrize("several", [False, True])
def test_every_wait_ends_at_once(act: Act, several: bool) -> None:
    ended = threading.Event()
    timer = threading.Timer(0.1, ended.set)
    with RawServer(act) as server, ended_by(ended.is_set):
        client = WitnessClient(server.url, [KEY.public], timeout=30)
        if several:
            ask = partial(submit_all, [client] * 20, SEVEN.note, 7, SEVEN.path_from, known=lambda _: 0)
        else:
            ask = partial(submit, client, SEVEN.note, 7, SEVEN.path_from)
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ask(say=print)
        assert time.monotonic() - began < 5
    timer.join()


def test_a_signal_ends_what_other_threads_wait_for() -> None:
    def interrupt(connection: socket.socket, body: bytes) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        silent(connection, body)

    with RawServer(interrupt, silent) as server:
        began = time.monotonic()
        clients = [WitnessClient(server.url, [KEY.public], timeout=30)] * 2
        with pytest.raises(KeyboardInterrupt):
            submit_all(clients, SEVEN.note, 7, SEVEN.path_from, lambda _: 0, say=print)
        assert time.monotonic() - began < 5
    assert not [each.name for each in threading.enumerate() if each.name.startswith("msb-cache-witness")]


def test_a_slow_witness_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "SAY_AFTER", 0.05)
    said: list[str] = []
    with RawServer(silent) as server:
        client = WitnessClient(server.url, [KEY.public], timeout=0.3)
        with pytest.raises(WitnessError):
            submit(client, SEVEN.note, 7, SEVEN.path_from, say=said.append)
    assert said == [f"waiting for {server.host} to answer"]


# --- several --------------------------------------------------------------------------------------


def test_several_are_asked_and_each_outcome_is_told_in_their_order() -> None:
    path_threads: set[int] = set()
    log = Log(7)

    def path_from(old: int) -> Sequence[bytes]:
        path_threads.add(threading.get_ident())
        return log.path_from(old)

    witnesses = [Witness(KEY) for _ in range(3)]
    with (
        RawServer(witnesses[0]) as fresh,
        RawServer(witnesses[1]) as behind,
        RawServer(size(9)) as ahead,
        RawServer(silent) as hanging,
    ):
        submitted(behind, Log(4))
        servers = [hanging, ahead, behind, fresh]
        clients = [WitnessClient(each.url, [KEY.public], timeout=0.5) for each in servers]
        known = {behind.url: 2}
        found = submit_all(clients, log.note, 7, path_from, lambda each: known.get(each.url, 0), say=print)
    assert [each.witness for each in found] == [each.url for each in servers]
    assert isinstance(found[0], NotCosigned)
    assert (found[0].status, found[0].problem) == (
        None,
        f"the witness {hanging.url} does not answer within 0.5 seconds",
    )
    assert isinstance(found[1], NotCosigned)
    assert (found[1].status, found[1].size) == (409, 9)
    assert isinstance(found[2], Submitted)
    assert found[2].old_size == 4
    assert isinstance(found[3], Submitted)
    assert found[3].old_size == 0
    assert log.asked == [2, 4]
    assert path_threads == {threading.get_ident()}
    assert submit_all([], log.note, 7, path_from, lambda _: 0, say=print) == []


def test_so_many_are_asked_at_once_and_no_more() -> None:
    now, most, lock = 0, 0, threading.Lock()
    witness = Witness(KEY)

    def act(connection: socket.socket, body: bytes) -> None:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        time.sleep(0.1)
        with lock:
            now -= 1
            witness.known.clear()
            witness(connection, body)

    with RawServer(act) as server:
        clients = [WitnessClient(server.url, [KEY.public])] * 20
        found = submit_all(clients, SEVEN.note, 7, SEVEN.path_from, lambda _: 0, say=print)
    assert all(isinstance(each, Submitted) for each in found)
    assert 1 < most <= MOST_AT_ONCE


def test_a_log_that_cannot_be_read_ends_it() -> None:
    def broken(old: int) -> Sequence[bytes]:
        raise LookupError(str(old))

    with RawServer(Witness(KEY)) as server, RawServer(silent) as hanging:
        clients = [WitnessClient(each.url, [KEY.public], timeout=30) for each in (hanging, server)]
        began = time.monotonic()
        with pytest.raises(LookupError, match=r"^3$"):
            submit_all(clients, SEVEN.note, 7, broken, lambda _: 3, say=print)
        assert time.monotonic() - began < 5


def test_a_cosignature_is_laid_out_byte_by_byte_as_the_specification_says() -> None:
    name, encoded = GOOD.decode().removeprefix("\u2014 ").rstrip("\n").split(" ")
    data = base64.b64decode(encoded)
    assert name == NAME
    assert data[:4] == sha256(f"{NAME}\n".encode() + b"\x04" + KEY.public.public).digest()[:4]
    assert int.from_bytes(data[4:12], "big") == NOW
    assert len(data) == 4 + 8 + 64
