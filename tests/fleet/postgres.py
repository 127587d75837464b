"""A real PostgreSQL of the tests' own, and pgbouncer before it: on loopback, in a temporary folder."""

from __future__ import annotations

import atexit
import hashlib
import hmac
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path
from typing import Any

PASSWORD = "of-the-tests"


def _verifier() -> str:
    """What a server keeps of the password, of few iterations: tests connect some thousand times."""
    salt, iterations = b"salt of the tests", 16
    salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), salt, iterations)
    client, server = (hmac.digest(salted, of, "sha256") for of in (b"Client Key", b"Server Key"))
    kept = [b64encode(each).decode() for each in (salt, hashlib.sha256(client).digest(), server)]
    return f"SCRAM-SHA-256${iterations}:{kept[0]}${kept[1]}:{kept[2]}"


VERIFIER = _verifier()


def programs() -> Path | None:
    """Where the newest PostgreSQL's programs are."""
    found = sorted(glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    if found:
        return Path(found[-1]).parent
    named = shutil.which("initdb")
    return None if named is None else Path(named).resolve().parent


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _user() -> dict[str, Any]:
    """As whom it runs: PostgreSQL refuses root."""
    if os.getuid():
        return {}
    name = next(name for name in ("postgres", "nobody") if _has(name))
    entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _has(name: str) -> bool:
    with suppress(KeyError):
        pwd.getpwnam(name)
        return True
    return False


_prepared: list[Path] = []


def _prepare(programs_: Path, data: Path, run: dict[str, Any]) -> None:
    """Make a cluster as ``initdb`` does, which takes a second: the process' first one is copied for each."""
    if not _prepared:
        whole = tempfile.TemporaryDirectory(prefix="msb-cache-pg-", dir="/tmp")
        atexit.register(whole.cleanup)
        folder = Path(whole.name)
        folder.chmod(0o755)
        if uid := run.get("user"):
            os.chown(folder, uid, -1)
        password = folder / "password"
        password.write_text(VERIFIER)
        password.chmod(0o644)
        subprocess.run(
            [
                *(programs_ / "initdb", "-D", folder / "data", "-U", "admin", "-A", "scram-sha-256"),
                *("--pwfile", password, "-E", "UTF8", "--locale=C.UTF-8", "-N"),
                "--wal-segsize=1",
            ],
            **run,
        )
        _prepared.append(folder / "data")
    subprocess.run(["cp", "-a", _prepared[0], data], **run)


class Server:
    """A server that can be stopped, killed and started again.

    Attributes:
        port: on 127.0.0.1.
        admin: the DSN of its superuser, for the database ``fleet``.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        bin_ = programs()
        assert bin_ is not None
        self._bin, self.folder, self.data = bin_, folder, folder / "data"
        self._run: dict[str, Any] = {
            "cwd": "/",
            "check": True,
            "stdout": subprocess.DEVNULL,
            "timeout": 60,
            **_user(),
        }
        folder.chmod(0o755)
        if uid := self._run.get("user"):
            os.chown(folder, uid, -1)
        _prepare(bin_, self.data, self._run)
        self.port = free_port()
        lines = [
            f"port = {self.port}",
            "listen_addresses = '127.0.0.1'",
            f"unix_socket_directories = '{folder}'",
            "shared_buffers = 64MB",
            "max_connections = 60",
        ]
        if not durable:
            lines += [
                "fsync = off",
                "autovacuum = off",
                "jit = off",
                "wal_level = minimal",
                "max_wal_senders = 0",
            ]
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write("\n".join(lines) + "\n")
        self.start()
        self.admin = self.dsn("admin", database="postgres")
        import psycopg

        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute("CREATE DATABASE fleet")
        self.admin = self.dsn("admin")

    def dsn(
        self, user: str, password: str = PASSWORD, *, port: int | None = None, database: str = "fleet"
    ) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        self._control("start", "-w", "-l", str(self.folder / "log"))

    def clear(self) -> None:
        """Drop all databases and roles but its own, and give it an empty ``fleet``."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.dsn("admin", database="postgres"), autocommit=True) as connection:
            for kind, listed, more in (
                ("DATABASE", "SELECT datname FROM pg_database WHERE NOT datistemplate", " WITH (FORCE)"),
                ("ROLE", "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_'", ""),
            ):
                for (name,) in connection.execute(listed.encode()).fetchall():
                    if name not in ("postgres", "admin"):
                        drop = sql.SQL(f"DROP {kind} {{}}{more}")
                        connection.execute(drop.format(sql.Identifier(name)))
            connection.execute("CREATE DATABASE fleet")

    def stop(self, mode: str = "fast") -> None:
        """``immediate`` is as if the machine had lost its power."""
        self._control("stop", "-w", "-m", mode)

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def _control(self, *arguments: str) -> None:
        subprocess.run([self._bin / "pg_ctl", "-D", self.data, *arguments], **self._run)


@contextmanager
def running(*, durable: bool = False) -> Iterator[Server]:
    """Run a server within the block."""
    with tempfile.TemporaryDirectory(prefix="msb-cache-pg-", dir="/tmp") as folder:
        server = Server(Path(folder), durable=durable)
        try:
            yield server
        finally:
            with suppress(subprocess.CalledProcessError):
                server.stop("immediate")


@contextmanager
def pooled(server: Server, users: dict[str, str], *, database: str = "fleet") -> Iterator[int]:
    """Run pgbouncer before a server, each transaction on any connection; give its port.

    Args:
        server: the server.
        users: names and passwords of the roles that come through it.
        database: which one it gives them as ``fleet``.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program is not None
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="bouncer-", dir=server.folder))
    folder.chmod(0o755)
    known = folder / "users"
    known.write_text("".join(f'"{name}" "{password}"\n' for name, password in users.items()))
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\nfleet = host=127.0.0.1 port={server.port} dbname={database}\n"
        "[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nauth_type = scram-sha-256\nauth_file = {known}\npool_mode = transaction\n"
        "unix_socket_dir =\nmax_client_conn = 200\ndefault_pool_size = 4\n"
    )
    process = subprocess.Popen(
        [program, "-q", settings], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **_user()
    )
    try:
        for _ in range(100):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
