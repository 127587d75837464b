"""Bad input of every kind: one sentence on stderr, the right exit code, and nothing changed."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.cli.support import APP, BASE, TOOL, execute, fingerprint, rows, sentence, sql, written
from tests.imagebuilder import (
    blob_name,
    compact_json,
    docker_members,
    image,
    layer,
    named,
    oci_archive,
    oci_members,
    tar_of,
    write_members,
)

WRITING = {
    "load": "load -i {archive}",
    "remove": "remove app:1",
    "remove by force": "rm -f app:1",
    "prune": "prune -y",
    "prune orphans": "prune -y --orphans",
    "use": "use app:1",
    "hold": "hold app:1 sandbox:dev",
    "release": "release sandbox:dev",
    "rebuild": "rebuild",
    "import": "import {archive}",
}
READING = {
    "list": "list",
    "list as JSON": "list --format json",
    "inspect": "inspect app:1",
    "save": "save app:1 -o {tmp}/saved.tar",
    "history": "history app:1",
    "events": "events",
    "prunes": "prunes",
    "prunes show": "prunes show 0190",
    "verify": "verify",
    "prune --dry-run": "prune -n",
    "why": "why app:1",
    "why a digest": "why sha256:0123456789ab",
    "last-used": "last-used",
    "restore-plan": "prunes restore-plan 0190",
    "checkpoint": "checkpoint",
    "export": "export",
    "export to a file": "export -o {tmp}/exported.jsonl",
    "replay": "replay",
    "replay --state": "replay --state",
}
FAILED, USAGE, NOT_FOUND = 1, 2, 3


class TestArguments:
    """What is wrong with the words of the command."""

    @pytest.mark.parametrize(
        ("code", "command", "says"),
        [
            (USAGE, ["bogus"], "bogus"),
            (USAGE, ["list", "--bogus"], "--bogus"),
            (USAGE, ["--bogus", "list"], "--bogus"),
            (USAGE, ["list", "--as-of"], "--as-of"),
            (USAGE, ["list", "--format", "xml"], "'table', 'json'"),
            (USAGE, ["inspect"], "REF"),
            (USAGE, ["remove"], "REF"),
            (USAGE, ["save"], "REF"),
            (USAGE, ["hold", "app:1"], "HOLDER"),
            (USAGE, ["release"], "HOLDER"),
            (USAGE, ["prunes", "show"], "ID"),
            (USAGE, ["prunes", "bogus"], "bogus"),
            (USAGE, ["save", "app:1", "--format", "zip"], "zip"),
            (USAGE, ["--log-level", "loud", "list"], "loud"),
            (USAGE, ["--home", "", "list"], "--home"),
            (USAGE, ["events", "--type", "nope"], "image.pulled"),
            (USAGE, ["events", "-n", "0"], "0"),
            (USAGE, ["events", "-n", "many"], "many"),
            (USAGE, ["prunes", "-n", "-3"], "-3"),
            (USAGE, ["why"], "REF|DIGEST"),
            (USAGE, ["prunes", "restore-plan"], "ID"),
            (USAGE, ["last-used", "--idle-for", "ages"], "30 days"),
            (USAGE, ["last-used", "--idle-for", ""], "30 days"),
            (USAGE, ["last-used", "--idle-for", "99999999999 days"], "30 days"),
            (USAGE, ["export", "--since-seq", "-1"], "-1"),
            (USAGE, ["export", "-o", ""], "--output"),
            (USAGE, ["import"], "FILE"),
            (USAGE, ["replay", "--from", "0"], "0"),
            (USAGE, ["replay", "--state", "--from", "2"], "--to"),
            (USAGE, ["replay", "--until-diff", "x", "--to", "2"], "--until-diff"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_usage(self, home: Path, call: Call, code: int, command: list[str], says: str) -> None:
        before = fingerprint(home)
        done = call(*command)
        assert (done.code, done.raw) == (code, b"")
        assert says in sentence(done.err)
        assert fingerprint(home) == before

    @pytest.mark.parametrize(
        ("reference", "says"),
        [
            ("", "empty"),
            ("UPPER:1", "lower case"),
            ("a b", "space"),
            ("app:", "app:"),
            ("app:bad tag", "space"),
            ("app:-bad", "tag"),
            ("app@sha256:12", "digest"),
            ("app@md5:" + "0" * 32, "digest"),
            ("app@sha256:" + "A" * 64, "digest"),
            ("../../etc/passwd", "../../etc/passwd"),
            ("https://example.org/app:1", "https"),
            ("app:" + "t" * 129, "tag"),
            ("n" * 300 + ":1", "n"),
            ("app\x1b[31m:1", "control"),
            ("äpp:1", "äpp"),
            (":1", ":1"),
            ("/", "/"),
        ],
        ids=lambda value: ascii(value[:20]),
    )
    @pytest.mark.parametrize(
        "command", ["inspect", "history", "why", "remove", "use", "save", "hold", "load"]
    )
    def test_no_reference(
        self, home: Path, call: Call, tmp_path: Path, command: str, reference: str, says: str
    ) -> None:
        before = fingerprint(home)
        words = {
            "hold": ["hold", reference, "sandbox:dev"],
            "load": ["load", "-i", str(tmp_path / "app.tar"), "--tag", reference],
            "save": ["save", reference, "-o", str(tmp_path / "out.tar")],
        }
        done = call(*words.get(command, [command, reference]))
        assert (done.code, done.raw) == (USAGE, b"")
        assert "\x1b" not in done.err
        assert says in sentence(done.err)
        assert not (tmp_path / "out.tar").exists()
        assert fingerprint(home) == before

    @pytest.mark.parametrize("command", ["inspect", "history", "why", "remove", "use", "save", "hold"])
    def test_not_in_the_cache(self, home: Path, call: Call, tmp_path: Path, command: str) -> None:
        before = fingerprint(home)
        more = {"hold": ["sandbox:dev"], "save": ["-o", str(tmp_path / "out.tar")]}
        done = call(command, "app:2", *more.get(command, []))
        assert (done.code, done.raw) == (NOT_FOUND, b"")
        assert "app:2" in sentence(done.err)
        assert not (tmp_path / "out.tar").exists()
        assert fingerprint(home) == before

    @pytest.mark.parametrize(
        "holder",
        ["", "me", "sandbox", "sandbox:", "Sandbox:x", "vm:x", "sandbox:a\nb", "sandbox:" + "x" * 501],
        ids=lambda value: ascii(value[:20]),
    )
    @pytest.mark.parametrize("command", [["hold", "app:1"], ["release"], ["use", "app:1", "--holder"]])
    def test_no_holder(self, home: Path, call: Call, command: list[str], holder: str) -> None:
        before = fingerprint(home)
        done = call(*command, holder)
        assert (done.code, done.raw) == (USAGE, b"")
        assert "sandbox:NAME" in sentence(done.err)
        assert fingerprint(home) == before

    @pytest.mark.parametrize("operation", ["", "zz", "../x", "01a2 b", "01", "Ä" * 6])
    def test_no_operation_id(self, home: Path, call: Call, operation: str) -> None:
        done = call("prunes", "show", operation)
        assert (done.code, done.raw) == (NOT_FOUND, b"")
        assert "msb-cache prunes" in sentence(done.err)

    def test_unknown_operation_id(self, home: Path, call: Call) -> None:
        done = call("prunes", "show", "0190a0b0-1111-7222-8333-444444444444")
        assert (done.code, done.raw) == (NOT_FOUND, b"")
        assert "msb-cache prunes" in sentence(done.err)

    def test_ambiguous_operation_id(self, home: Path, call: Call) -> None:
        call("rm", "app:1")
        call("rm", "app:latest")
        first, second = (row["operation"] for row in call("prunes", "--format", "json").json)
        prefix = first[: next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)]
        assert len(prefix) >= 4
        done = call("prunes", "show", prefix)
        assert done.code in (FAILED, USAGE, NOT_FOUND)
        assert done.raw == b""
        assert "2 deletions" in sentence(done.err)

    def test_unknown_operation_of_events(self, home: Path, call: Call) -> None:
        done = call("events", "--operation", "nope")
        assert (done.code, done.raw) == (NOT_FOUND, b"")
        assert "nope" in sentence(done.err)

    @pytest.mark.parametrize("platform", ["", "linux", "x/y/z/w", "linux/", "linux amd64"])
    def test_no_platform(self, home: Path, call: Call, tmp_path: Path, platform: str) -> None:
        before = fingerprint(home)
        done = call("load", "-i", tmp_path / "app.tar", "--platform", platform)
        assert (done.code, done.raw) == (USAGE, b"")
        assert "platform" in sentence(done.err)
        assert fingerprint(home) == before


def _archives() -> dict[str, tuple[Callable[[Path], Path], str]]:
    """Name → what writes it, and a word of what is said about it."""

    def raw(data: bytes) -> Callable[[Path], Path]:
        def write(path: Path) -> Path:
            path.write_bytes(data)
            return path

        return write

    whole = tar_of(docker_members([APP]))
    packed = gzip.compress(whole, mtime=0)
    lying = oci_members([APP])
    lying[blob_name(APP.layers[1].digest)] = APP.layers[1].blob[:-1] + b"!"
    wrong_manifest = oci_members([APP])
    wrong_manifest[blob_name(APP.digest)] += b" "
    missing_blob = oci_members([APP])
    del missing_blob[blob_name(APP.layers[0].digest)]
    other_diff_ids = docker_members([APP])
    other_diff_ids[APP.layers[0].diff_id.removeprefix("sha256:") + "/layer.tar"] = TOOL.layers[0].tar + bytes(
        512
    )
    not_json = docker_members([APP])
    not_json["manifest.json"] = b"{"
    wrong_shape = docker_members([APP])
    wrong_shape["manifest.json"] = compact_json([{"Config": 5}])
    missing_config = docker_members([APP])
    missing_config["manifest.json"] = compact_json(
        [{"Config": "gone.json", "RepoTags": ["a:1"], "Layers": []}]
    )
    bad_name = docker_members([image([BASE], "Bad Name:1")])
    no_layer_tar = image([layer(b"not a tar at all" * 100)], "broken:1")
    climbing = io.BytesIO()
    with tarfile.open(fileobj=climbing, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../outside"))
    escaping = image([layer(climbing.getvalue())], "escaping:1")
    return {
        "empty": (raw(b""), "empty"),
        "text": (raw(b"hello\n" * 1000), "docker save"),
        "zeros": (raw(bytes(10240)), ""),
        "truncated": (raw(whole[: len(whole) // 2]), "truncated"),
        "cut in a header": (raw(whole[: 512 * 3 + 100]), "truncated"),
        "truncated gzip": (raw(packed[: len(packed) // 2]), ""),
        "damaged gzip": (raw(packed[:200] + bytes(100) + packed[300:]), ""),
        "gzip of text": (raw(gzip.compress(b"hello")), ""),
        "other tar": (raw(tar_of({"hello": b"world"})), "manifest.json"),
        "manifest no JSON": (raw(tar_of(not_json)), "manifest.json"),
        "manifest of another shape": (raw(tar_of(wrong_shape)), "manifest.json"),
        "config missing": (raw(tar_of(missing_config)), "gone.json"),
        "layer not that of the config": (raw(tar_of(other_diff_ids)), "sha256:"),
        "name no reference": (raw(tar_of(bad_name)), "Bad Name"),
        "layer no tar": (raw(tar_of(docker_members([no_layer_tar]))), ""),
        "layer that climbs out": (raw(tar_of(docker_members([escaping]))), ".."),
        "lies about a layer": (raw(tar_of(lying)), "sha256:"),
        "lies about its manifest": (raw(tar_of(wrong_manifest)), "sha256:"),
        "blob missing": (raw(tar_of(missing_blob)), "sha256:"),
        "no names": (raw(oci_archive(image([BASE]))), "--tag"),
        "points at nothing": (
            raw(oci_archive(APP, manifests=[named({**TOOL.descriptor}, ref_name="a:1")])),
            "",
        ),
        "folder that is no layout": (lambda path: write_members(path, {"hello": b"world"}), "index.json"),
        "empty folder": (lambda path: write_members(path, {"a/b": b""}) / "a", ""),
        "layout with a lying blob": (lambda path: write_members(path, lying), "sha256:"),
        "missing": (lambda path: path / "missing.tar", "missing.tar"),
    }


ARCHIVES = _archives()


class TestArchives:
    """What is wrong with what is loaded."""

    @pytest.mark.parametrize("kind", ARCHIVES)
    def test_refused_whole(self, home: Path, call: Call, tmp_path: Path, kind: str) -> None:
        write, says = ARCHIVES[kind]
        before = fingerprint(home)
        done = call("load", "-i", write(tmp_path / "bad"))
        assert done.raw == b""
        assert done.code == FAILED
        notes = [line for line in done.err.splitlines(keepends=True) if line.startswith("note: ")]
        said = sentence(done.err.removeprefix("".join(notes)))
        assert says in said + "".join(notes)
        assert fingerprint(home) == before
        assert not (tmp_path / "outside").exists()
        assert list((home / "cache" / "tmp").iterdir()) == []

    def test_one_bad_image_keeps_the_good_ones_out(self, home: Path, call: Call, tmp_path: Path) -> None:
        good = image([BASE], "good:1")
        bad = image([TOOL.layers[1]], "bad:1")
        members = oci_members([good, bad])
        members[blob_name(bad.layers[0].digest)] += b"!"
        (tmp_path / "both.tar").write_bytes(tar_of(members))
        before = fingerprint(home)
        assert call("load", "-i", tmp_path / "both.tar").code == FAILED
        assert fingerprint(home) == before

    def test_into_a_new_home_leaves_no_image(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        (tmp_path / "bad").write_bytes(b"hello")
        assert call("load", "-i", tmp_path / "bad").code == FAILED
        assert call("list", "--format", "json").json == []
        assert [path for path in own_home.rglob("*") if path.is_file() and path.suffix != ".lock"] == []

    def test_nothing_on_stdin(self, home: Path) -> None:
        before = fingerprint(home)
        done = execute("load")
        assert (done.code, done.raw) == (FAILED, b"")
        assert "empty" in sentence(done.err)
        assert fingerprint(home) == before

    def test_rubbish_on_stdin(self, home: Path) -> None:
        before = fingerprint(home)
        for data in (b"hello", tar_of(docker_members([APP]))[:5000]):
            done = execute("load", stdin=data)
            assert (done.code, done.raw) == (FAILED, b"")
            sentence(done.err)
        assert fingerprint(home) == before

    def test_a_file_that_cannot_be_read(self, home: Path, call: Call, tmp_path: Path) -> None:
        before = fingerprint(home)
        for path in (Path("/proc/self/mem"), tmp_path):
            done = call("load", "-i", path)
            assert (done.code, done.raw) == (FAILED, b"")
            assert str(path) in sentence(done.err)
        if os.geteuid() != 0:
            (tmp_path / "app.tar").chmod(0)
            done = call("load", "-i", tmp_path / "app.tar")
            assert (done.code, done.raw) == (USAGE, b"")
            assert "is not readable" in sentence(done.err)
        assert fingerprint(home) == before

    def test_platform_that_is_not_there(self, home: Path, call: Call, tmp_path: Path) -> None:
        before = fingerprint(home)
        done = call(
            "load", "-i", written(tmp_path / "two.tar", TOOL, format="oci"), "--platform", "linux/s390x"
        )
        assert done.code in (FAILED, NOT_FOUND)
        assert "linux/s390x" in sentence(done.err)
        assert "linux/amd64" in sentence(done.err)
        assert fingerprint(home) == before


class TestSaving:
    @pytest.mark.parametrize(
        "target", ["", "no/such/folder/x.tar", "{tmp}", "/proc/x.tar", "{tmp}/app.tar/x"]
    )
    def test_where_nothing_can_be_written(
        self, home: Path, call: Call, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        before = sorted(os.listdir(tmp_path))
        done = call("save", "app:1", "-o", target.format(tmp=tmp_path))
        assert (done.code, done.raw) in ((FAILED, b""), (USAGE, b""))
        said = sentence(done.err)
        assert ".part" not in said  # the user named no such file
        assert sorted(os.listdir(tmp_path)) == before

    def test_one_of_several_missing(self, home: Path, call: Call, tmp_path: Path) -> None:
        done = call("save", "app:1", "nothing:1", "-o", tmp_path / "out.tar")
        assert done.code == NOT_FOUND
        assert "nothing:1" in sentence(done.err)
        assert not (tmp_path / "out.tar").exists()

    def test_a_failed_save_keeps_the_old_file(self, home: Path, call: Call, tmp_path: Path) -> None:
        out = tmp_path / "out.tar"
        out.write_bytes(b"precious")
        next(iter((home / "cache" / "layers").glob("*.erofs"))).unlink()
        done = call("save", "app:1", "example.org/team/tool:2", "-o", out)
        assert done.code == FAILED
        assert "load the image again" in sentence(done.err)
        assert out.read_bytes() == b"precious"
        assert list(tmp_path.glob(".*")) == []

    def test_a_truncated_layer(self, home: Path, call: Call, tmp_path: Path) -> None:
        path = home / "cache" / "layers" / f"{APP.layers[1].diff_id.replace(':', '_')}.erofs"
        os.truncate(path, 4096)
        done = call("save", "app:1", "-o", tmp_path / "out.tar")
        assert done.code == FAILED
        assert path.name in sentence(done.err)
        assert not (tmp_path / "out.tar").exists()


def _words(command: str, tmp_path: Path) -> list[str]:
    return command.format(archive=tmp_path / "tool.tar", tmp=tmp_path).split()


class TestHomes:
    """What is wrong with the home."""

    @pytest.mark.parametrize("command", [*WRITING, *READING])
    def test_a_file(self, call: Call, tmp_path: Path, command: str) -> None:
        place = tmp_path / "file"
        place.write_text("a file")
        written(tmp_path / "tool.tar", TOOL)
        for home in (place, place / "below"):
            done = call("--home", home, *_words({**WRITING, **READING}[command], tmp_path))
            assert (done.code, done.raw) == (FAILED, b"")
            assert str(home) in sentence(done.err)
        assert place.read_text() == "a file"

    @pytest.mark.parametrize("command", ["remove", "use", "hold"])
    def test_a_failure_makes_no_home(self, own_home: Path, call: Call, command: str, tmp_path: Path) -> None:
        done = call(*_words(WRITING[command], tmp_path))
        assert (done.code, done.raw) == (NOT_FOUND, b"")
        sentence(done.err)
        assert not [path for path in own_home.rglob("*") if path.suffix == ".db"]

    @pytest.mark.parametrize("command", READING)
    def test_reading_makes_no_home(self, own_home: Path, call: Call, command: str, tmp_path: Path) -> None:
        done = call(*_words(READING[command], tmp_path))
        assert "Traceback" not in done.err
        assert not own_home.exists()

    @pytest.mark.parametrize("command", ["load", "remove", "remove by force", "prune", "prune orphans"])
    def test_msb_keeps_it_and_is_not_there(
        self, home: Path, call: Call, command: str, tmp_path: Path, no_msb: None
    ) -> None:
        (home / "db" / "msb.db").touch()
        before = fingerprint(home)
        done = call("--no-sync", *_words(WRITING[command], tmp_path))
        assert (done.code, done.raw) == (FAILED, b"")
        assert "kept by msb, which is not installed here" in sentence(done.err)
        assert fingerprint(home) == before

    @pytest.mark.parametrize("command", READING)
    def test_msb_owns_it_and_we_read(self, own_home: Path, call: Call, command: str, tmp_path: Path) -> None:
        (own_home / "db").mkdir(parents=True)
        (own_home / "db" / "msb.db").touch()
        done = call(*_words(READING[command], tmp_path))
        assert "Traceback" not in done.err
        assert [path.name for path in own_home.rglob("*")] == ["db", "msb.db"]
        # "No cached images" would be false: msb has its own index of them.
        assert "msb" in done.err.replace("msb-cache", "")

    def test_verify_does_not_call_the_files_of_msb_orphans(self, home: Path, call: Call) -> None:
        (home / "db" / "msb-cache.db").unlink()
        (home / "db" / "msb.db").touch()
        assert "--orphans" not in call("verify").out

    @pytest.mark.parametrize("command", [*WRITING, *READING])
    @pytest.mark.parametrize("kind", ["newer", "foreign", "garbage", "folder"])
    def test_the_database_is_not_ours(
        self, home: Path, call: Call, kind: str, command: str, tmp_path: Path
    ) -> None:
        path = home / "db" / "msb-cache.db"
        if kind == "newer":
            sql(home, "PRAGMA user_version = 99")
        else:
            for file in (home / "db").glob("msb-cache.db*"):
                file.unlink()
        if kind == "foreign":
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("CREATE TABLE recipes (name)")
                connection.commit()
        elif kind == "garbage":
            path.write_bytes(b"no database " * 1000)
        elif kind == "folder":
            path.mkdir()
        before = fingerprint(home)
        done = call(*_words({**WRITING, **READING}[command], tmp_path))
        assert (done.code, done.raw) == (FAILED, b"")
        assert str(path) in sentence(done.err)
        if kind == "newer":
            assert "upgrade msb-cache" in done.err
        assert fingerprint(home) == before

    @pytest.mark.parametrize("command", [*WRITING, *READING])
    def test_the_database_is_damaged(self, home: Path, call: Call, command: str, tmp_path: Path) -> None:
        sql(home, "PRAGMA wal_checkpoint(TRUNCATE)")
        path = home / "db" / "msb-cache.db"
        data = path.read_bytes()
        # Everything but the first page, so that whatever the command asks for lies in the damage.
        path.write_bytes(data[:4096] + b"\xaa" * (len(data) - 4096))
        before = fingerprint(home)
        done = call(*_words({**WRITING, **READING}[command], tmp_path))
        assert (done.code, done.raw) == (FAILED, b"")
        assert str(path) in sentence(done.err)
        assert fingerprint(home) == before

    @pytest.mark.parametrize("command", [*WRITING, *READING])
    def test_an_event_of_a_later_release(self, home: Path, call: Call, command: str, tmp_path: Path) -> None:
        """Whatever a command does with an event it does not know, it is no traceback."""
        sql(
            home,
            "INSERT INTO events SELECT seq + 1, 'later', 'image.frozen', 1, subject, operation, occurred_at, "
            "recorded_at, actor, '{}', hash FROM events ORDER BY seq DESC LIMIT 1",
        )
        before = fingerprint(home)
        done = call(*_words({**WRITING, **READING}[command], tmp_path))
        if command == "verify":
            assert done.code == FAILED
            assert "image.frozen" in done.out + done.err
        else:
            assert done.code in (FAILED, NOT_FOUND)
            sentence(done.err)
        assert fingerprint(home) == before

    def test_a_copied_home_needs_nothing_else(self, home: Path, call: Call, tmp_path: Path) -> None:
        shutil.copytree(home, tmp_path / "copy")
        assert call("--home", tmp_path / "copy", "verify").code == 0
        assert rows(tmp_path / "copy") == rows(home)
