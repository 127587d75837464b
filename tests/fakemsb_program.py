"""The fake msb as a program: what msb-cache asks of the real one, with SQLite and placeholder files.

``tests/fakemsb.py`` puts it into a folder of its own, with the schema of msb's database, the bytes of a layer
image, and the images that its registry has. It starts in the time of an interpreter, so it imports the
standard library only, and of that what the command needs. Its words, exit codes and rows are those of msb
0.7.11, which a test compares with the real one.
"""

from __future__ import annotations

import _sqlite3  # sqlite3 without datetime, which would be a third of a command's time
import fcntl
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Document = dict[str, Any]
    """What a metadata file holds."""

VERSION = "msb 0.7.11"
LEASES = ".msb-leases"
FOLDERS = ("layers", "fsmeta", "vmdk", "manifests", "tmp", "flat/refs", "flat/blobs", "flat/locks")
HELD = (
    "(EXISTS (SELECT 1 FROM sandbox_rootfs WHERE manifest_id = m.id) "
    "OR EXISTS (SELECT 1 FROM snapshot_index WHERE image_manifest_digest = m.digest))"
)
FLAT_BYTES = 256 * 1024 * 1024
PATIENCE = 60  # seconds, after which a fake that hangs ends, so that a test that failed leaves none behind


class Refused(Exception):
    """The command ends; its words are what the user is told."""


class Fake:
    """One run of the program, for the home that the environment names."""

    def __init__(self, folder: str, home: str) -> None:
        self.folder, self.home = folder, home
        self.cache = os.path.join(home, "cache")
        self.faults: list[dict[str, Any]] = []
        self.busy = 0
        """How many leases others had."""
        self._leases: dict[str, int] = {}
        self._database: Any = None

    # -- what a test asked for ----------------------------------------------------------------------------

    def begin(self, words: list[str]) -> None:
        """Take what a test wants to go wrong with this command."""
        path = os.path.join(self.folder, "faults.json")
        if not os.path.exists(path):
            return
        import json

        with open(path, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            waiting = json.load(file)
            self.faults = [fault for fault in waiting if words[: len(fault["command"])] == fault["command"]]
            left = [fault for fault in waiting if fault not in self.faults or fault["always"]]
            file.seek(0)
            file.truncate()
            json.dump(left, file)

    def reached(self, step: str) -> bool:
        """Do what a test wants at this step; return whether the command may go on with it."""
        proceed = True
        for fault in self.faults:
            if fault["at"] != step:
                continue
            for command in fault["meanwhile"]:
                perform(Fake(self.folder, self.home), command)
            if fault["hangs"]:
                self._hang()
            if fault["signal"]:
                os.kill(os.getpid(), fault["signal"])
            for line in fault["says"]:
                say(line)
            if fault["code"] is not None:
                raise SystemExit(fault["code"])
            proceed = proceed and not fault["skips"]
        return proceed

    def _hang(self) -> None:
        with open(os.path.join(self.folder, "hangs"), "w"):
            deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not os.path.exists(os.path.join(self.folder, "released")):
            time.sleep(0.002)

    # -- the home -----------------------------------------------------------------------------------------

    @property
    def database(self) -> Any:
        """The database, made with its tables if it is not there."""
        if self._database is None:
            os.makedirs(os.path.join(self.home, "db"), exist_ok=True)
            path = os.path.join(self.home, "db", "msb.db")
            with open(f"{path}.migration.lock", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._database = _sqlite3.connect(path, timeout=10, isolation_level=None)
                self._database.execute("PRAGMA synchronous = OFF")
                self._database.execute("PRAGMA journal_mode = WAL")
                if not self.one("SELECT 1 FROM sqlite_master WHERE name = 'image_ref'"):
                    with open(os.path.join(self.folder, "schema.sql")) as file:
                        self._database.executescript(f"BEGIN IMMEDIATE; {file.read()} COMMIT;")
            self._database.execute("PRAGMA foreign_keys = ON")
        return self._database

    def make_folders(self) -> None:
        """Make the cache's folders, as every command does that is about images."""
        for name in FOLDERS:
            os.makedirs(os.path.join(self.cache, name), exist_ok=True)

    def close(self) -> None:
        """Close the database and give up the leases."""
        if self._database is not None:
            self._database.close()
            self._database = None
        self.give_up_leases()

    def give_up_leases(self) -> None:
        while self._leases:
            os.close(self._leases.popitem()[1])

    def one(self, query: str, *arguments: Any) -> Any:
        """Return the first column of the first row, None when there is none."""
        row = self._database.execute(query, arguments).fetchone()
        return None if row is None else row[0]

    def now(self) -> str:
        """Return the time as msb writes it, later than every time in the database."""
        # A home that a test made can have times that this machine's clock has not come to.
        newest = self.one("SELECT max(updated_at) FROM image_ref") or ""
        seconds, fraction = divmod(time.time_ns(), 10**9)
        text = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{fraction:09}"
        return text if text > newest else f"{newest[:20]}{min(int(newest[20:29]) + 1000, 999_999_999):09}"

    def path(self, kind: str, subject: str) -> str:
        """Return where an artifact lies; the subject is a digest or, of metadata, a reference as typed."""
        if kind == "manifests":
            return os.path.join(self.cache, kind, f"{sha256(canonical(subject).encode())}.json")
        ending = "vmdk" if kind == "vmdk" else "erofs"
        return os.path.join(self.cache, kind, f"{subject.replace(':', '_')}.{ending}")

    def lease(self, path: str, how: int) -> bool:
        """Take the lease of an artifact, as all do who use or delete it; return whether it was free."""
        if path in self._leases:
            return True
        folder, name = os.path.split(path)
        os.makedirs(os.path.join(folder, LEASES), exist_ok=True)
        lock = os.path.join(folder, LEASES, f"{sha256(name.encode())}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            os.close(descriptor)
            self.busy += 1
            return False
        self._leases[path] = descriptor
        return True

    def free(self, path: str) -> bool:
        return self.lease(path, fcntl.LOCK_EX | fcntl.LOCK_NB)

    # -- deleting -----------------------------------------------------------------------------------------

    def remove(self, references: list[str], force: bool) -> int:
        failed = False
        for reference in references:
            try:
                self._remove(reference, force)
            except Refused as refusal:
                failed = True
                say(f"error: {refusal}")
            else:
                done("Removed", reference)
            self.give_up_leases()
        if failed:
            say("error: some images failed to remove")
        return int(failed)

    def _remove(self, reference: str, force: bool) -> None:
        database = self.database
        database.execute("BEGIN IMMEDIATE")
        try:
            found = database.execute(
                f"SELECT m.id, {HELD} FROM image_ref r JOIN manifest m ON m.id = r.manifest_id "
                "WHERE r.reference = ?",
                (reference,),
            ).fetchone()
            if found is None:
                raise Refused(f"image not found: {reference}")
            manifest, held = found
            if held and not force:
                raise Refused("image in use by sandbox(es): sandbox or snapshot dependency")
            metadata = self.path("manifests", reference)
            if not self.free(metadata):
                raise Refused("image in use by sandbox(es): active storage operation")
            database.execute("DELETE FROM image_ref WHERE reference = ?", (reference,))
            files = [] if held else self._metadata([reference])
            files += self._unneeded([manifest])[1]
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
        self._delete(files)

    def prune(self, json_wanted: bool, quiet: bool) -> int:
        database = self.database
        database.execute("BEGIN IMMEDIATE")
        unused = [
            reference
            for (reference,) in database.execute(
                f"SELECT reference FROM image_ref r JOIN manifest m ON m.id = r.manifest_id WHERE NOT {HELD}"
            ).fetchall()
            if self.free(self.path("manifests", reference))
        ]
        database.executemany("DELETE FROM image_ref WHERE reference = ?", [(name,) for name in unused])
        files = self._metadata(unused)
        manifests = [row for (row,) in database.execute("SELECT id FROM manifest ORDER BY id").fetchall()]
        counts, artifacts = self._unneeded(manifests)
        database.execute("COMMIT")
        size = self._delete([*files, *artifacts])
        report = {
            "bytes_reclaimed": size or None,
            **{f"{kind}_removed": count for kind, count in counts.items()},
            "image_refs_removed": len(unused),
            "skipped_in_use": self.busy,
        }
        if json_wanted:
            import json

            os.write(1, json.dumps(report, indent=2, sort_keys=True).encode() + b"\n")
        elif not quiet:
            done("Pruned", "image cache")
        return 0

    def _metadata(self, references: list[str]) -> list[str]:
        """Return the metadata files of references whose rows are gone, and that no other spelling has."""
        others = self.database.execute("SELECT reference FROM image_ref")
        kept = {self.path("manifests", name) for (name,) in others}
        return [path for path in (self.path("manifests", name) for name in references) if path not in kept]

    def _unneeded(self, manifests: list[int]) -> tuple[dict[str, int], list[str]]:
        """Take manifests that nothing needs out of the index, then layers without one; return their files."""
        counts = dict.fromkeys(("manifests", "layers", "fsmeta", "vmdk"), 0)
        files: list[str] = []
        for row in manifests:
            digest = self.one(
                f"SELECT digest FROM manifest m WHERE id = ? AND NOT {HELD} "
                "AND NOT EXISTS (SELECT 1 FROM image_ref WHERE manifest_id = m.id)",
                row,
            )
            own = [] if digest is None else [self.path("fsmeta", digest), self.path("vmdk", digest)]
            if own and all(map(self.free, own)):
                self.database.execute("DELETE FROM manifest WHERE id = ?", (row,))
                files += own
                for kind in ("manifests", "fsmeta", "vmdk"):
                    counts[kind] += 1
        orphaned = (
            "SELECT diff_id FROM layer WHERE id NOT IN (SELECT layer_id FROM manifest_layer) ORDER BY id"
        )
        for (diff_id,) in self.database.execute(orphaned).fetchall():
            path = self.path("layers", diff_id)
            if self.free(path):
                self.database.execute("DELETE FROM layer WHERE diff_id = ?", (diff_id,))
                files.append(path)
                counts["layers"] += 1
        return counts, files

    def _delete(self, paths: list[str]) -> int:
        """Delete files, after their rows; return how many bytes they had."""
        size = 0
        if self.reached("rows"):
            for path in paths:
                try:
                    measured = os.stat(path).st_size
                    os.unlink(path)
                except FileNotFoundError:
                    continue
                size += measured
                self.reached("file")
        return size

    # -- adding -------------------------------------------------------------------------------------------

    def load(self, path: str | None, tags: list[str], quiet: bool) -> int:
        for tag in tags:
            if "::" in tag:
                raise Refused(
                    f"manifest parse error: invalid image reference {tag}: invalid reference format"
                )
        self.reached("read")
        try:
            if path is None:
                with open(0, "rb", closefd=False) as file:
                    data = file.read()
            else:
                with open(path, "rb") as file:
                    data = file.read()
        except OSError as error:
            reason = f"{error.strerror} (os error {error.errno})"
            raise Refused(f"cache error at {path}: {reason}") from None
        loaded = []
        for number, (document, names) in enumerate(images_of(data, self._has_layer)):
            wanted = [*names, *(tags if number == 0 else ())]
            if not wanted:
                raise Refused("manifest parse error: docker archive image has no tags; pass --tag to name it")
            self._publish(document, wanted)
            loaded += wanted
        for name in [] if quiet else loaded:
            done("Loaded", name)
        return 0

    def _has_layer(self, diff_id: str) -> bool:
        return os.path.exists(self.path("layers", diff_id))

    def pull(self, reference: str, force: bool, materialize: str) -> int:
        import json

        metadata = self.path("manifests", reference)
        if not force and os.path.exists(metadata):
            with open(metadata, "rb") as file:
                document = json.load(file)
            if self.is_whole(document, materialize):
                self._enter(document, reference)
                return 0
        offered = os.path.join(self.folder, "registry", f"{sha256(canonical(reference).encode())}.tar")
        if not os.path.exists(offered):
            host, _, rest = canonical(reference).partition("/")
            name, _, tag = rest.rpartition(":")
            address = f"https://{host}/v2/{name}/manifests/{tag}"
            raise Refused(f"registry error: error sending request for url ({address})")
        with open(offered, "rb") as file:
            ((document, _),) = images_of(file.read())
        document["raw_manifest_json"] = in_its_own_form(document["raw_manifest_json"])
        self._fetch(document)
        self._publish(document, [reference], materialize)
        return 0

    def _fetch(self, document: Document) -> None:
        """Have the blobs of layers come as in the cache of msb, where they lie until the image is made."""
        coming = []
        for layer in document["layers"]:
            name = layer["digest"].replace(":", "_")
            if os.path.exists(self.path("layers", layer["diff_id"])):
                continue
            with open(os.path.join(self.cache, "tmp", f"{name}.download.lock"), "a"):
                part = os.path.join(self.cache, "tmp", f"{name}.part")
            with open(part, "wb") as file:
                file.truncate(layer["size_bytes"])
            coming.append((part, os.path.join(self.cache, "layers", f"{name}.tar.gz")))
        self.reached("blobs")
        for part, blob in dict(coming).items():
            os.replace(part, blob)
            os.unlink(blob)

    def is_whole(self, document: Document, materialize: str = "layered") -> bool:
        """Return whether msb takes the image for cached, for which it asks the files only."""
        wanted = self.artifacts(document, materialize)
        if materialize != "layered":
            wanted += self.flat(document["manifest_digest"])[:2]
        # Metadata whose labels are null it cannot read.
        return document["config"]["labels"] is not None and all(map(os.path.exists, wanted))

    def artifacts(self, document: Document, materialize: str = "layered") -> list[str]:
        """Return the paths of an image's files, but for its metadata and its flat root."""
        kinds = [("layers", layer["diff_id"]) for layer in document["layers"]]
        if materialize != "flat":
            kinds += [(kind, document["manifest_digest"]) for kind in ("fsmeta", "vmdk")]
        return [self.path(*each) for each in kinds]

    def flat(self, digest: str) -> tuple[str, str, str]:
        """Return where the flat ref of a manifest, its blob and the lock of its derivation lie."""
        folder = os.path.join(self.cache, "flat")
        blob, derivation = (sha256(f"{what} {digest}".encode()) for what in ("blob", "derivation"))
        return (
            os.path.join(folder, "refs", f"{digest.replace(':', '_')}.json"),
            os.path.join(folder, "blobs", f"sha256_{blob}.raw"),
            os.path.join(folder, "locks", f"sha256_{derivation}.lock"),
        )

    def _make_flat(self, digest: str) -> None:
        """Make a manifest's flat root: a file with holes, whose digest is made up."""
        import json

        ref, blob, lock_path = self.flat(digest)
        derivation = os.path.basename(lock_path)[7:71]
        with open(lock_path, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.reached("flat")
            if not os.path.exists(blob):
                with open(f"{blob}.part", "wb") as part:
                    part.write(b"ext4" * 8192)
                    part.truncate(FLAT_BYTES)
                os.replace(part.name, blob)
            document = {
                "schema": 1,
                "manifest_digest": digest,
                "derivation_digest": f"sha256:{derivation}",
                "artifact_digest": f"sha256:{os.path.basename(blob)[7:71]}",
                "materializer_abi": 2,
                "uuid": derivation[:32],
                "virtual_size_bytes": FLAT_BYTES,
                "inode_count": 4,
                "content_bytes": 32768,
            }
            with open(f"{ref}.part", "wb") as part:
                part.write(json.dumps(document, indent=2).encode())
            os.replace(part.name, ref)

    def _content(self, document: Document, path: str) -> bytes:
        """Return what an image's file has in it; of its files those that come before this one are there."""
        *layers, fsmeta, vmdk = self.artifacts(document)
        if path != vmdk:
            name = "layer.erofs" if path in layers else f"fsmeta-{len(layers)}.erofs"
            with open(os.path.join(self.folder, name), "rb") as file:
                return file.read()
        extents = [f'RW {os.stat(part).st_size // 512} FLAT "{part}" 0\n' for part in (fsmeta, *layers)]
        head = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        tail = "\n# The Disk Data Base\n#DDB\n" + 'ddb.adapterType = "ide"\n' * 20
        return (head + 'createType="twoGbMaxExtentFlat"\n\n' + "".join(extents) + tail).encode()

    def _publish(self, document: Document, references: list[str], materialize: str = "layered") -> None:
        import json

        for reference in references:
            self.lease(self.path("manifests", reference), fcntl.LOCK_SH)
        for path in self.artifacts(document):
            self.lease(path, fcntl.LOCK_SH)
        for path in self.artifacts(document, materialize):
            if os.path.exists(path):
                continue
            with open(f"{path}.lock", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not os.path.exists(path):
                    with open(f"{path}.part", "wb") as part:
                        part.write(self._content(document, path))
                    os.replace(part.name, path)
        if materialize != "layered":
            self._make_flat(document["manifest_digest"])
        self.reached("files")
        for reference in references:
            path = self.path("manifests", reference)
            with open(f"{path}.part", "wb") as part:
                part.write(json.dumps(document, separators=(",", ":")).encode())
            os.replace(part.name, path)
            self._enter(document, reference)
        self.reached("rows")

    def _enter(self, document: Document, reference: str) -> None:
        """Enter an image into the index under a reference, or renew what is there."""
        import json

        database, digest, config = self.database, document["manifest_digest"], document["config"]
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        database.execute("BEGIN IMMEDIATE")
        now = self.now()
        self._upsert(
            "manifest",
            {"digest": digest},
            {
                "config_digest": document["config_digest"],
                "architecture": machine,
                "os": sys.platform,
                "layer_count": len(document["layers"]),
                "total_size_bytes": sum(layer["size_bytes"] for layer in document["layers"]),
            },
            {"created_at": now},
        )
        manifest = self.one("SELECT id FROM manifest WHERE digest = ?", digest)
        lists = {
            key: json.dumps(config[key], separators=(",", ":")) if config[key] else None for key in LISTS
        }
        plain = {key: config[key] for key in ("working_dir", "user")}
        database.execute("DELETE FROM config WHERE manifest_id = ?", (manifest,))
        self._upsert(
            "config",
            {"manifest_id": manifest},
            {"digest": document["config_digest"], **lists, **plain},
            {"created_at": now},
        )
        database.execute("DELETE FROM manifest_layer WHERE manifest_id = ?", (manifest,))
        for position, layer in enumerate(document["layers"]):
            self._upsert(
                "layer",
                {"diff_id": layer["diff_id"]},
                {"last_used_at": now},
                {
                    "blob_digest": layer["digest"],
                    "media_type": layer["media_type"],
                    "compressed_size_bytes": layer["size_bytes"],
                    "created_at": now,
                },
            )
            row = self.one("SELECT id FROM layer WHERE diff_id = ?", layer["diff_id"])
            database.execute(
                "INSERT INTO manifest_layer (manifest_id, layer_id, position) VALUES (?, ?, ?)",
                (manifest, row, position),
            )
        self._upsert(
            "image_ref",
            {"reference": reference},
            {"manifest_id": manifest, "updated_at": now},
            {"created_at": now},
        )
        database.execute("COMMIT")

    def _upsert(self, table: str, key: Document, values: Document, first: Document) -> None:
        """Insert a row, or, if there is one with this key, set its ``values``; ``first`` it keeps."""
        row = {**key, **values, **first}
        (named,) = key
        names = ", ".join(f"{name} = excluded.{name}" for name in values)
        self.database.execute(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) "
            f"ON CONFLICT ({named}) DO UPDATE SET {names}",
            tuple(row.values()),
        )

    # -- sandboxes ----------------------------------------------------------------------------------------

    def create(self, reference: str, name: str) -> int:
        """Make a sandbox, which is never started."""
        database = self.database
        database.execute("BEGIN IMMEDIATE")
        now = self.now()
        config = f'{{"name":"{name}","image":{{"Oci":{{"reference":"{reference}"}}}}}}'
        database.execute("UPDATE image_ref SET updated_at = ? WHERE reference = ?", (now, reference))
        database.execute(
            "INSERT INTO sandbox (name, config, status, created_at) VALUES (?, ?, 'Stopped', ?)",
            (name, config, now),
        )
        database.execute(
            "INSERT INTO sandbox_rootfs (sandbox_id, manifest_id, mode, created_at) "
            "SELECT s.id, r.manifest_id, 'erofs', ? FROM sandbox s, image_ref r "
            "WHERE s.name = ? AND r.reference = ?",
            (now, name, reference),
        )
        database.execute("COMMIT")
        done("Created", name)
        return 0

    def remove_sandbox(self, name: str) -> int:
        self.database.execute("DELETE FROM sandbox WHERE name = ?", (name,))
        done("Removed", name)
        return 0

    def references(self) -> int:
        """List the references as JSON."""
        import json

        rows = self.database.execute("SELECT reference FROM image_ref ORDER BY created_at DESC, id DESC")
        os.write(1, json.dumps([{"reference": name} for (name,) in rows]).encode() + b"\n")
        return 0


LISTS = ("env", "cmd", "entrypoint", "labels")


def say(line: str) -> None:
    os.write(2, line.encode() + b"\n")


def done(word: str, name: str) -> None:
    say(f"  ✓ {word:<20}{name}")


def sha256(data: bytes) -> str:
    from hashlib import sha256

    return sha256(data).hexdigest()


def canonical(typed: str) -> str:
    """Return a reference that a user typed in its full form; it is one, as the tests' are."""
    name, at, digest = typed.partition("@")
    host, slash, rest = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, rest = "docker.io", name
    if host == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    if not at and ":" not in rest.rpartition("/")[2]:
        rest += ":latest"
    return f"{host}/{rest}{at}{digest}"


# -- archives ---------------------------------------------------------------------------------------------


def images_of(data: bytes, has: Callable[[str], bool] | None = None) -> list[tuple[Document, list[str]]]:
    """Return what an archive's images' metadata files will hold, and their names."""
    members = members_of(data)
    if "oci-layout" in members:
        return images_of_layout(members, has or (lambda diff_id: False))
    if "manifest.json" in members:
        return images_of_docker(members)
    raise Refused("manifest parse error: archive missing manifest.json or oci-layout")


def members_of(data: bytes) -> dict[str, bytes]:
    """Return what an archive holds, as far as it can be read."""
    import io
    import tarfile

    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                members[member.name] = b"" if file is None else file.read()
    except tarfile.ReadError:
        if data and not members:
            raise Refused("failed to read entire block") from None
    return members


def images_of_layout(
    members: dict[str, bytes], has: Callable[[str], bool]
) -> list[tuple[Document, list[str]]]:
    """Return a layout's images; of layers that are there already the blobs need only be there, too."""
    import json

    blobs = {f"sha256:{name.rpartition('/')[2]}": data for name, data in members.items() if "/" in name}
    found: dict[str, list[str]] = {}
    for entry in json.loads(members["index.json"])["manifests"]:
        name = entry.get("annotations", {}).get("org.opencontainers.image.ref.name")
        found.setdefault(entry["digest"], []).extend([name] if name else [])
    images = []
    for digest, names in found.items():
        config = blobs[json.loads(blobs[digest])["config"]["digest"]]
        document = described(blobs[digest], config)
        for layer in document["layers"]:
            problem, size = "manifest parse error: OCI layer", layer["size_bytes"]
            if layer["digest"] not in blobs:
                name = layer["digest"].removeprefix("sha256:")
                raise Refused(f"manifest parse error: OCI layout missing layer blob blobs/sha256/{name}")
            found = len(blobs[layer["digest"]])
            if found != size and not has(layer["diff_id"]):
                raise Refused(
                    f"{problem} {layer['digest']} size mismatch: descriptor has {size}, archive has {found}"
                )
        images.append((document, names))
    return images


def images_of_docker(members: dict[str, bytes]) -> list[tuple[Document, list[str]]]:
    import json

    images = []
    for entry in json.loads(members["manifest.json"]):
        config = members[entry["Config"]]
        layers = [
            {
                "digest": f"sha256:{sha256(members[name])}",
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "size": len(members[name]),
            }
            for name in entry["Layers"]
        ]
        manifest = {
            "config": {
                "digest": f"sha256:{sha256(config)}",
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "size": len(config),
            },
            "layers": layers,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "schemaVersion": 2,
        }
        raw = json.dumps(manifest, separators=(",", ":")).encode()
        images.append((described(raw, config), sorted(entry["RepoTags"] or ())))
    return images


def described(raw: bytes, raw_config: bytes) -> Document:
    """Return what the metadata file of a manifest's references holds."""
    import json

    manifest = json.loads(raw)
    config = json.loads(raw_config)
    run = config.get("config", {})
    return {
        "manifest_digest": f"sha256:{sha256(raw)}",
        "config_digest": manifest["config"]["digest"],
        "raw_manifest_json": raw.decode(),
        "raw_config_json": raw_config.decode(),
        "config": {
            "env": run.get("Env", []),
            "cmd": run.get("Cmd"),
            "entrypoint": run.get("Entrypoint"),
            "working_dir": run.get("WorkingDir"),
            "user": run.get("User"),
            "exposed_ports": [*run.get("ExposedPorts", {})],
            "volumes": [*run.get("Volumes", {})],
            "labels": run.get("Labels", {}),
            "stop_signal": run.get("StopSignal"),
        },
        "layers": [
            {
                "digest": layer["digest"],
                "media_type": layer["mediaType"],
                "size_bytes": layer["size"],
                "diff_id": diff_id,
            }
            for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
        ],
    }


def in_its_own_form(manifest: str) -> str:
    """Return a manifest as msb keeps what it pulled: its known fields, in their order."""
    import json

    found = json.loads(manifest)
    described = [{key: each[key] for key in ("mediaType", "digest", "size")} for each in found["layers"]]
    config = {key: found["config"][key] for key in ("mediaType", "digest", "size")}
    return json.dumps(
        {"schemaVersion": 2, "mediaType": found["mediaType"], "config": config, "layers": described},
        separators=(",", ":"),
    )


# -- the command line ---------------------------------------------------------------------------------------

ALIASES = {"rm": "remove", "-f": "--force", "-q": "--quiet", "-t": "--tag", "-i": "--input"}
VALUED = ("--materialize", "--tag", "--input", "--format", "--name", "--ca-certs", "--memory", "--root-disk")


def perform(fake: Fake, arguments: list[str]) -> int:
    """Run a command; return its exit code."""
    words: list[str] = []
    options: dict[str, list[str]] = {}
    given = iter(arguments)
    for word in given:
        if word == "--":
            words += given
        elif word.startswith("-"):
            name = ALIASES.get(word, word)
            options.setdefault(name, []).append(next(given) if name in VALUED else "")
        else:
            words.append(ALIASES.get(word, word) if len(words) < 2 else word)
    try:
        fake.begin(words)
        fake.reached("begin")
        code = _perform(fake, words, options)
        fake.close()
        fake.reached("end")
    except Refused as refusal:
        say(f"error: {refusal}")
        return 1
    finally:
        fake.close()
    return code


def _perform(fake: Fake, words: list[str], options: dict[str, list[str]]) -> int:
    quiet, force = "--quiet" in options, "--force" in options
    if words[:1] in (["image"], ["load"], ["pull"]):
        fake.make_folders()
    match words:
        case [] if "--version" in options:
            os.write(1, f"{VERSION}\n".encode())
            return 0
        case ["ls"]:
            fake.database  # noqa: B018 - it is made
            say("No sandboxes found.")
            return 0
        case ["image", "ls"]:
            return fake.references()
        case ["image", "remove", _, *_]:
            return fake.remove(words[2:], force)
        case ["image", "prune"] if "--yes" in options:
            return fake.prune("--format" in options, quiet)
        case ["load"]:
            return fake.load(options.get("--input", [None])[0], options.get("--tag", []), quiet)
        case ["pull", reference]:
            return fake.pull(reference, force, options.get("--materialize", ["layered"])[0])
        case ["create", reference]:
            return fake.create(reference, options["--name"][0])
        case ["remove", name]:
            return fake.remove_sandbox(name)
    say(f"error: unrecognized subcommand '{' '.join(words)}'")
    return 2


def main(folder: str) -> int:
    """Run the command that the command line names, and note it; the folder is the program's own."""
    with open(os.path.join(folder, "calls"), "a") as file:
        file.write("\0".join(sys.argv[1:]) + "\n")
    return perform(Fake(folder, os.environ["MSB_HOME"]), sys.argv[1:])
