"""The commands that make a fleet ready, through the installed program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.fleet.conftest import admin, postgres  # noqa: F401

PROGRAM = Path(sys.executable).with_name("msb-cache")


def run(*arguments: str, stdin: str = "", dsn: str | None = None) -> subprocess.CompletedProcess[str]:
    given = [] if dsn is None else ["--dsn", dsn]
    return subprocess.run(
        [PROGRAM, "fleet", *arguments, *given], input=stdin, capture_output=True, text=True, timeout=60
    )


def done(*arguments: str, stdin: str = "", dsn: str) -> str:
    found = run(*arguments, stdin=stdin, dsn=dsn)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_a_fleet_from_its_beginning(admin):  # noqa: F811
    before = run("enrol", "early", dsn=admin)
    assert (before.returncode, before.stdout) == (1, "")
    assert "msb-cache fleet init" in before.stderr
    assert json.loads(done("init", "--format", "json", dsn=admin))["was"] is None
    assert "already" in run("init", dsn=admin).stderr

    made = json.loads(done("enrol", "cli-host", "--max-logs", "3", "--format", "json", dsn=admin))
    assert (made["name"], made["kind"], made["max_logs"], made["is_new"]) == ("cli-host", "host", 3, True)
    assert made["max_log_size"] == 1 << 30
    assert made["password"] not in made["dsn"]
    assert made["pgpass"].endswith(f":cli-host:{made['password']}")
    psycopg.connect(made["dsn"], password=made["password"]).close()

    shown = run("enrol", "cli-reader", "--as", "reader", dsn=admin)
    lines = dict(line.split(":", 1) for line in shown.stdout.splitlines())
    password = lines["Password"].strip()
    assert shown.stdout.count(password) == 2  # alone, and in the line of the password file
    assert password not in shown.stderr
    psycopg.connect(lines["DSN"].strip(), password=password).close()

    given = run("enrol", "cli-given", "--password-stdin", "--format", "{name}", stdin="its own\n", dsn=admin)
    assert (given.returncode, given.stdout) == (0, "cli-given\n")
    assert "its own" not in given.stderr
    again = run("enrol", "cli-given", "--password-stdin", stdin="its own\n", dsn=admin)
    assert again.returncode == 0
    assert "its own" not in again.stdout + again.stderr
    psycopg.connect(made["dsn"].replace("cli-host", "cli-given"), password="its own").close()
    none = json.loads(done("enrol", "cli-none", "--no-password", "--format", "json", dsn=admin))
    assert none["password"] is None

    assert {*done("enrol", "-q", dsn=admin).split()} >= {"cli-host", "cli-reader", "cli-given", "cli-none"}
    assert "cli-host" in done("enrol", dsn=admin)
    for given, said in (
        (("--max-log-size", "100MiB"), "may own 3 logs, each of at most 100.0 MiB"),
        (("--max-log-size", "unlimited", "--max-logs", "1"), "may own 1 log of any size"),
        ((), "may own 1 log of any size"),
    ):
        assert said in run("enrol", "cli-host", *given, dsn=admin).stderr
    [listed] = [
        each
        for each in json.loads(done("enrol", "--format", "json", dsn=admin))
        if each["name"] == "cli-host"
    ]
    assert (listed["max_logs"], listed["max_log_size"], listed["largest_log_size"]) == (1, None, None)
    assert "any size" in done("enrol", dsn=admin)
    assert json.loads(done("unenrol", "cli-host", "--format", "json", dsn=admin)) == {
        "name": "cli-host",
        "kind": "host",
        "logs": 0,
    }
    gone = run("unenrol", "cli-host", dsn=admin)
    assert (gone.returncode, gone.stdout) == (3, "")


def test_servers(admin):  # noqa: F811
    done("init", dsn=admin)
    assert done("servers", "--format", "json", dsn=admin) == "[]\n"
    refused = run("servers", "--add", "east", "host=east password=of-secret", dsn=admin)
    assert refused.returncode == 2
    assert "of-secret" not in refused.stderr
    done("servers", "--add", "east", "host=east", dsn=admin)
    assert done("servers", "-q", dsn=admin) == "east\n"
    assert "host=east" in done("servers", dsn=admin)
    assert run("servers", "--force", dsn=admin).returncode == 2
    done("servers", "--remove", "east", dsn=admin)
    assert run("servers", "--remove", "east", dsn=admin).returncode == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("enrol", "--max-logs", "3"), "give a NAME"),
        (("enrol", "--max-log-size", "3GiB"), "give a NAME"),
        (("enrol", "x", "--max-log-size", "-3"), "no size"),
        (("enrol", "x", "--max-log-size", "much"), "no size"),
        (("enrol", "x", "--password-stdin", "--no-password"), "exclude each other"),
        (("enrol", "UPPER"), "no name for an enrolment"),
        (("enrol", "x", "--format", "{nothing}"), "no field"),
        (("servers", "--add", "x", "y", "--remove", "z"), "exclude each other"),
        (("enrol", "x", "--db", "file"), "needs a fleet in PostgreSQL"),
    ],
)
def test_what_is_no_command(arguments, said):
    found = run(*arguments, dsn=None if "--db" in arguments else "host=nowhere")
    assert (found.returncode, found.stdout) == (2, "")
    assert said in found.stderr


def test_acknowledge(admin):  # noqa: F811
    done("init", dsn=admin)
    done("enrol", "cli-full", "--max-logs", "0", "--password-stdin", stdin="x\n", dsn=admin)
    host = f"{json.loads(done('enrol', 'cli-full', '--format', 'json', dsn=admin))['dsn']} password=x"
    log_id = "ab" * 16
    with psycopg.connect(host) as connection:
        connection.execute("SELECT msb_cache.append(%s, 1)", (log_id,))
    for arguments in ((), ("cli-full", "--all")):
        assert run("acknowledge", *arguments, dsn=admin).returncode == 2
    missing = run("acknowledge", "cli-fulll", dsn=admin)
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "refused" in run("hosts", dsn=admin).stderr
    shown = run("acknowledge", "cli-full", dsn=admin)
    assert shown.stderr.endswith(f"full of log {log_id[:12]} from cli-full, refused 1 time\n")
    assert "refused" not in run("hosts", dsn=admin).stderr
    assert done("acknowledge", "--all", "--format", "json", dsn=admin) == "[]\n"


def test_a_password_of_bytes_or_too_long():
    for stdin, said in ((b"\xff\n", "no UTF-8"), (b"x" * 2000, "more than 1024 bytes")):
        found = subprocess.run(
            [PROGRAM, "fleet", "enrol", "x", "--password-stdin", "--dsn", "host=nowhere"],
            input=stdin,
            capture_output=True,
            timeout=60,
        )
        assert found.returncode == 2
        assert said.encode() in found.stderr
