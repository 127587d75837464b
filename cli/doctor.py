"""The doctor command: everything that is wrong with a home, what it means, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, a_file, examples, note, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.progress import display
from msb_cache.cli.tables import hanging, sentence
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.shapes import jsonable
from msb_cache.wording import quoted

if TYPE_CHECKING:
    from pathlib import Path

    from msb_cache import ImageCache
    from msb_cache.care.doctor import Finding
    from msb_cache.care.repair import RepairReport


_BELOW = " " * 6


@click.command(
    short_help="Find what is wrong with a home, and mend it.",
    epilog=examples("msb-cache doctor", "msb-cache doctor --fix", "msb-cache doctor --fix --pull"),
)
@click.option("--fix", is_flag=True, help="Mend what can safely be mended of what is here.")
@click.option("--pull", is_flag=True, help="With --fix: fetch what is lost from its registry.")
@click.option("--insecure", is_flag=True, help="With --pull: accept plain HTTP and any certificate.")
@click.option(
    "--ca-certs",
    metavar="PEM",
    type=PATH,
    callback=a_file,
    help="With --pull: trust these authorities too.",
)
@shown_options("what is wrong", tables=False)
@click.pass_obj
def doctor(
    home: str | None,
    fix: bool,
    pull: bool,
    insecure: bool,
    ca_certs: Path | None,
    shown: Shown,
) -> int:
    """Find everything that is wrong with a home, say what each thing means, and name what mends it.

    With --fix, operations that were cut short are finished or undone, the index is made anew from the log,
    and so are VMDKs and merged trees from their layers; with --pull, lost layers are fetched by the digest of
    their image. Orphans, foreign files and what is another user's stay. The exit code is 0 only if nothing is
    wrong.
    """
    if pull and not fix:
        raise click.UsageError("--pull says how --fix mends; give both")
    if (insecure or ca_certs is not None) and not pull:
        raise click.UsageError("--insecure and --ca-certs say how --pull reaches registries")
    shown.expect("home", "sound", "findings", *(["mended"] if fix else []))
    with open_cache(home, quiet=shown.quiet) as cache:
        where = str(cache.home)
        if not fix:
            found = cache.doctor()
            report = None
        else:
            options = RegistryOptions(insecure=insecure, ca_certs=ca_certs)
            report = _repaired(cache, pull, options, shown)
            found = [left.finding for left in report.left]
        is_new = not found and not cache.info().events
    found, report = _named(found, report, home)
    shown.item(
        lambda: _fields(where, found, report),
        names=lambda: [_name(where, each) for each in found],
        table=lambda: _print(where, found, report, is_new),
    )
    return 1 if found else 0


COMMAND = doctor


def _repaired(cache: ImageCache, pull: bool, options: RegistryOptions, shown: Shown) -> RepairReport:
    said = None if shown.quiet else note
    with display(not shown.as_table) as progress:
        return cache.repair(pull=pull, options=options, progress=progress, note=said)


def _named(
    found: list[Finding], report: RepairReport | None, home: str | None
) -> tuple[list[Finding], RepairReport | None]:
    """Return the same with commands that are about the home of ``--home``; None: they are, without it."""
    if home is None:
        return found, report
    from msgspec.structs import replace

    def named(finding: Finding) -> Finding:
        return replace(finding, command=_about(home, finding.command))

    if report is not None:
        left = tuple(replace(each, finding=named(each.finding)) for each in report.left)
        mended, differs = map(named, report.mended), map(named, report.differs)
        report = replace(report, left=left, mended=tuple(mended), differs=tuple(differs))
    return [named(each) for each in found], report


def _about(home: str, command: str | None) -> str | None:
    """Return a command as it is typed about a home that the environment does not name."""
    program, _, rest = (command or "").partition(" ")
    if program == "msb-cache":
        return f"msb-cache --home {quoted(home)} {rest}"
    if program == "msb":
        return f"MSB_HOME={quoted(home)} {command}"
    return f"export MSB_HOME={quoted(home)}; {command}" if program == "rm" else command


def _fields(home: str, found: Sequence[Finding], report: RepairReport | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"home": home, "sound": not found}
    if report is None:
        return {**fields, "findings": jsonable(found)}
    return {
        **fields,
        **jsonable(report),
    }


def _print(home: str, found: Sequence[Finding], report: RepairReport | None, is_new: bool) -> None:
    lefts: Iterable[tuple[Finding, str | None]] = [(each, None) for each in found]
    if report is not None:
        lefts = [(left.finding, left.why) for left in report.left]
        for each in report.mended:
            _print_mended(home, each, differs=each in report.differs)
    for each, why in lefts:
        _print_finding(home, each, why)
    if is_new:
        sentence("Nothing of this home is on the disk yet, so nothing is wrong with it.", err=True)
    elif not found:
        output.line("Nothing is wrong." if report is None or not report.mended else "Nothing else is wrong.")
    else:
        sentence(_summary(found, is_mended=report is not None), err=True)


def _print_mended(home: str, finding: Finding, *, differs: bool) -> None:
    other = "; its bytes are others than those that msb-cache had made before" if differs else ""
    hanging(_title(home, finding), "  ", output.styled("✓", fg="green"), " ")
    hanging(f"mended{other}", _BELOW)


def _print_finding(home: str, finding: Finding, why: str | None) -> None:
    hanging(_title(home, finding), "  ", output.styled("✗", fg="red"), " ")
    hanging(finding.meaning, _BELOW)
    if why is not None:
        hanging(f"not mended: {why}", _BELOW)
    if finding.command is not None:
        hanging(f"`{finding.command}`", _BELOW)


def _name(home: str, finding: Finding) -> str:
    """Return what it is and where, for programs."""
    about = _place(home, finding) or finding.subject
    return finding.kind if about is None else f"{finding.kind} {about}"


def _place(home: str, finding: Finding) -> str | None:
    path = finding.path
    if path is None:
        return None
    return str(path.relative_to(home)) if path.is_relative_to(home) else str(path)


def _title(home: str, finding: Finding) -> str:
    parts: list[str] = [finding.kind]
    if (place := _place(home, finding)) is not None:
        parts.append(place)
    if finding.images:
        more = f" and {len(finding.images) - 1:,} more" if len(finding.images) > 1 else ""
        parts.append(f"{finding.images[0]}{more}")
    return "  ".join(parts)


def _summary(found: Sequence[Finding], *, is_mended: bool) -> str:
    still = " still" if is_mended else ""
    said = f"1 thing is{still} wrong" if len(found) == 1 else f"{len(found):,} things are{still} wrong"
    if is_mended:
        return f"{said}."
    here = sum(each.fixable and not each.needs_pull for each in found)
    pulled = sum(each.needs_pull for each in found)
    command = next((each.command for each in found if each.fixable and not each.needs_pull), None)
    if here:
        said += f"; `{command}` mends {here:,}"
    command = next((each.command for each in found if each.needs_pull), None)
    if pulled:
        said += f"; `{command}` mends {here + pulled:,}"
    return f"{said}."
