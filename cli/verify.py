"""The verify command: the log, the index and the disk, each checked against the one before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import click

from msb_cache.artifacts.kinds import FLAT
from msb_cache.audit.data import DataCheck
from msb_cache.audit.files import BROKEN, DiskProblem
from msb_cache.audit.noted import NoteCheck
from msb_cache.audit.verify import Verification
from msb_cache.cli import output
from msb_cache.cli.common import PATH, duration_ns, examples, open_cache
from msb_cache.cli.differences import (
    print_differences,
    schema_sentence,
)
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.progress import reading
from msb_cache.cli.tables import hanging
from msb_cache.cli.trust import keys_option, policy_option, read_at_most, read_policy
from msb_cache.eventstore.chain import Break
from msb_cache.oci.reference import Reference
from msb_cache.proof.note_file import MAX_FILE
from msb_cache.shapes import jsonable


@click.command(
    epilog=examples(
        "msb-cache verify",
        "msb-cache verify --data --sample 5%",
        "msb-cache verify --against note.txt",
        "msb-cache verify --against note.txt --key ci7.example.com/msb-cache+8c2f1c26+AQ…",
    )
)
@click.option(
    "--against",
    "path",
    type=PATH,
    metavar="NOTE",
    help="A checkpoint that the log must extend; - reads stdin.",
)
@keys_option
@policy_option
@click.option("--data", is_flag=True, help="Read all files, and compare them with their digests.")
@click.option(
    "--sample", metavar="PERCENT", help="Read so much of the files, such as 5%: those not read for longest."
)
@click.option("--max-age", metavar="DURATION", help="Read only files that were last read longer ago.")
@shown_options("what is wrong", tables=False)
@click.pass_obj
def verify(
    home: str | None,
    path: str | None,
    keys: tuple[str, ...],
    policy: str | None,
    data: bool,
    sample: str | None,
    max_age: str | None,
    shown: Shown,
) -> int:
    """Check the log, the index and the disk.

    That is the log's hash chain; the database's schema against what this release makes; the index, and the
    copies of it that answer questions about the past, against the log; and the disk against the index; and
    that the log begins with all of which the home has signed a checkpoint. With --against also that it begins
    with all that it said when `checkpoint` made the note, in this release or an older one.

    With --key or --policy the note must be signed by the log, and cosigned by the witnesses that these ask
    for; without --against the newest signed checkpoint that the home keeps of such a log.

    With --data every file is read, too, and its bytes compared with the digest that the log has of it. A file
    that has none gets it, as first seen. If it is stopped, the next one begins with what was not read yet.
    """
    shown.expect(*_FIELDS)
    note = None if path is None else read_at_most(path, MAX_FILE + 1)
    trusted = read_policy(policy)
    if not data and (sample is not None or max_age is not None):
        raise click.UsageError("--sample and --max-age say what --data reads")
    showing = reading() if shown.as_table else nullcontext()
    with open_cache(home, quiet=shown.quiet) as cache, showing as progress:
        request = None
        if data:
            from msb_cache.audit.data import DataRequest

            request = DataRequest(
                sample=1.0 if sample is None else _part(sample),
                max_age_ns=None if max_age is None else duration_ns(max_age),
                progress=progress,
            )
        found = cache.verify(note, keys=keys, policy=trusted, data=request)
    shown.item(
        lambda: jsonable(found),
        names=lambda: _wrong_things(found),
        table=lambda: _print_verification(found),
    )
    return 0 if found.sound else 1


COMMAND = verify

_FIELDS = (
    *(
        "sound",
        "chain",
        "against",
        "checkpoints",
        "bad_checkpoints",
        "put_back",
        "head_note",
        "schema",
        "unreadable",
    ),
    *("differences", "copies", "bad_copies", "subtrees", "bad_subtrees", "files", "data", "disk"),
)


def _part(percent: str) -> float:
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)\s*%?", percent.strip())
    part = float(match[1]) / 100 if match else 0
    if not 0 < part <= 1:
        raise click.BadParameter("write a part of 100, such as 5%", param_hint="--sample")
    return part


def _wrong_things(found: Verification) -> Iterator[str]:
    """Yield for each thing that is wrong where that is, as the table calls it, and its name if it has one."""
    if isinstance(found.chain, Break):
        yield "log"
    if found.rewound is not None:
        yield "head"
    if found.against is not None and found.against.problem:
        yield "note"
    yield from (f"signed {each.origin} {each.size}" for each in found.bad_checkpoints)
    yield from (f"tree {each.level} {each.position}" for each in found.bad_subtrees)
    yield from (f"schema {problem.kind} {problem.name}" for problem in found.schema)
    if found.unreadable:
        yield "index"
    for difference in found.differences:
        yield f"index {difference.table} {' '.join(map(str, difference.key))}"
    yield from (f"past {_place(found, copy)}" for copy in found.bad_copies)
    yield from (f"disk {_place(found, problem)}" for problem in found.disk if problem.problem in BROKEN)


_OTHER = output.styled("!", fg="yellow")
_WITHIN, _BELOW = " " * 6, " " * 13


def _say(mark: str | output.Styled, part: str, sentence: str) -> None:
    hanging(sentence, "  ", mark, f" {part:<8} ")


def _print_data(found: Verification, data: DataCheck, good: output.Styled, bad: output.Styled) -> None:
    altered = [problem for problem in found.disk if problem.problem == "altered"]
    read = f"{output.plural(data.files, 'file')} read, {output.size(data.bytes)}"
    left = f"; {output.plural(data.left_out, 'file')} left out" if data.left_out else ""
    _say(bad if altered else good, "data", f"{read}, {len(altered)} altered{left}")
    for path, seq in data.rewritten.items():
        name = path.relative_to(found.home)
        hanging(f"{name} was written anew by msb (event {seq}); its digest is known as first seen", _WITHIN)
    if data.digested:
        count = output.plural(len(data.digested), "file")
        _say(_OTHER, "data", f"{count} had no digest in the log, and have one now, as first seen")
    if data.undigested:
        count = output.plural(len(data.undigested), "file")
        _say(_OTHER, "data", f"{count} had no digest in the log, and changed while they were read")
    if data.busy:
        count = output.plural(len(data.busy), "file")
        hanging(f"{count} left out that another process is working with", _BELOW)
    if data.not_recorded is not None:
        hanging(f"what was found is not recorded: {data.not_recorded}", _BELOW)


def _print_verification(found: Verification) -> None:
    good, bad = output.styled("✓", fg="green"), output.styled("✗", fg="red")
    if isinstance(found.chain, Break):
        _say(bad, "log", found.chain.problem)
    else:
        head = f", head {found.chain.head.hex()[:12]}" if found.chain.events else ""
        _say(good, "log", f"{output.plural(found.chain.events, 'event')}{head}")
    if found.rewound is not None:
        _say(bad, "head", found.rewound.sentence)
        hanging("`msb-cache log acknowledge` says that this is known", _BELOW)
    elif found.no_head_note is None:
        _say(good, "head", "the log goes on from the note of it outside the home")
    elif found.head_wanted:
        _say(" ", "head", f"no note of it is outside the home: {found.no_head_note}")
    if found.against is not None:
        _print_note(found.against, good, bad)
    if found.bad_checkpoints:
        checkpoints = output.plural(found.checkpoints, "signed checkpoint")
        _say(bad, "signed", f"{checkpoints}, {len(found.bad_checkpoints)} not of this log:")
        for each in found.bad_checkpoints:
            hanging(each.detail, _WITHIN)
    elif found.checkpoints > len(found.put_back):
        checkpoints = output.plural(found.checkpoints - len(found.put_back), "signed checkpoint")
        _say(good, "signed", f"{checkpoints}, and the log goes on from each")
    for each in found.put_back:
        _say(_OTHER, "signed", each.detail)
    if found.bad_subtrees:
        hashes = output.plural(found.subtrees, "kept hash", "kept hashes")
        _say(bad, "tree", f"{hashes}, {len(found.bad_subtrees)} not of the log's events")
        hanging("`msb-cache rebuild` mends that", _BELOW)
    elif found.subtrees:
        hashes = output.plural(found.subtrees, "kept hash", "kept hashes")
        _say(good, "tree", f"{hashes}, as the log's events make them")
    _print_schema(found, good, bad)
    if found.unreadable:
        _say(bad, "index", f"cannot be compared: {found.unreadable}")
    elif found.differences:
        _say(bad, "index", f"{output.plural(len(found.differences), 'row')} not as the log says:")
        print_differences(found.differences)
        hanging("`msb-cache rebuild` mends that", _BELOW)
    else:
        _say(good, "index", "exactly what the log says")
    _print_copies(found, good, bad)
    broken = [problem for problem in found.disk if problem.problem in BROKEN]
    extra = [problem for problem in found.disk if problem.problem not in BROKEN]
    _say(
        bad if broken else good,
        "disk",
        f"{output.plural(found.files, 'file')} expected, {len(broken)} missing or damaged",
    )
    for problem in broken:
        hanging(f"{_place(found, problem)} {_wrong(problem)}; {_mended_by(found, problem)}", _WITHIN)
    if found.data is not None:
        _print_data(found, found.data, good, bad)
    if extra:
        _say(_OTHER, "disk", f"{output.plural(len(extra), 'file')} more than that")
    for problem in extra:
        what = "no image names it; `msb-cache prune --orphans-only` deletes it"
        if found.owned_by_msb:
            what = (
                "neither msb nor the log names it; `msb-cache prune --orphans-only` deletes it after an hour"
            )
        if problem.problem == "foreign":
            what = "not a file of the cache"
        elif problem.problem == "unclear":
            what = "the log names no image of it; it may be msb's"
        elif problem.leftover is not None:
            what = f"{problem.leftover.because}; the next prune or remove tries again"
        elif problem.problem == "unfinished":
            what = "msb was stopped while deleting; its next deletion goes on with that"
        hanging(f"{_place(found, problem)}: {what}", _WITHIN)


def _print_note(note: NoteCheck, good: output.Styled, bad: output.Styled) -> None:
    if note.contradiction:
        _say(bad, "note", note.contradiction)
    elif note.notes > 1:
        last = output.plural(note.size, "event")
        _say(good, "note", f"the log begins with each of {note.notes:,} notes, such as that of {last}")
    else:
        _say(good, "note", f"the log begins with the note of {output.plural(note.size, 'event')}")
    judged = note.judgement
    if judged is None:
        if note.has_signatures:
            hanging("who signed it was not checked: no --key or --policy says who is to", _BELOW)
    elif judged.problem:
        _say(bad, "note", judged.problem)
    elif judged.log is not None:
        names = [each.name for each in judged.cosigned]
        cosigned = f", cosigned by {', '.join(names)}" if names else ""
        _say(good, "note", f"signed by {judged.log.name}{cosigned}")


_REMEDIES = {
    "rebuild": "`msb-cache rebuild` mends that",
    "import": "restore a backup, or `msb-cache export` the log and import it into another --home",
    "drop": "take it out if you did not put it there",
}


def _print_schema(found: Verification, good: output.Styled, bad: output.Styled) -> None:
    if not found.schema:
        _say(good, "schema", "as this msb-cache makes it")
        return
    _say(bad, "schema", f"{output.plural(len(found.schema), 'part')} not as this msb-cache makes it:")
    for problem in found.schema:
        hanging(f"{schema_sentence(problem)}; {_REMEDIES[problem.remedy]}", _WITHIN)


def _print_copies(found: Verification, good: output.Styled, bad: output.Styled) -> None:
    if not found.copies:
        return
    copies = output.plural(found.copies, "copy of the index", "copies of the index")
    if not found.bad_copies:
        _say(good, "past", f"{copies}, as the log says")
        return
    _say(bad, "past", f"{copies}, {len(found.bad_copies)} not as the log says:")
    for copy in found.bad_copies:
        wrong = {"wrong": f"is not the index of event {copy.seq}", "unreadable": "cannot be read"}
        hanging(f"{_place(found, copy)} {wrong[copy.problem]}", _WITHIN)
    hanging("`msb-cache rebuild` discards them all; they are made again when they are needed", _BELOW)


def _place(found: Verification, problem: Any) -> str:
    return str(problem.path.relative_to(found.home))


def _wrong(problem: DiskProblem) -> str:
    if problem.problem == "missing":
        return "is missing"
    if problem.problem == "size":
        return f"has {problem.found_bytes:,} bytes, not {problem.expected_bytes:,}"
    detail = problem.detail or ""
    says = {
        "metadata": "is not what the log says",
        "fsmeta": "is not what its layers give",
        "vmdk": "is not of its image's files",
    }
    if problem.problem == "altered":
        return f"is not as it was: {detail}"
    if problem.problem == "other":
        return f"{says[problem.kind]}: {detail}"
    return "is damaged" if problem.problem == "damaged" else f"is of no use here: {detail}"


def _mended_by(found: Verification, problem: DiskProblem) -> str:
    if not problem.references:
        return "load its image again"
    reference = Reference.parse(problem.references[0]).familiar
    if problem.kind in FLAT:
        return f"delete the file, and `msb pull --materialize flat {reference}` makes it anew"
    if found.owned_by_msb:
        return (
            f"`msb pull --force {reference}` makes it anew; "
            "if that came from an archive, delete the file and `msb load` it again"
        )
    return f"`msb-cache pull --policy always {reference}` mends it, or loading its archive again"
