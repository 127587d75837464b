"""The gc command: a cache kept small by its policy file, once or for as long as the command stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output, progress
from msb_cache.cli.common import (
    PATH,
    examples,
    open_cache,
    reason_option,
    staying_logger,
    stopping,
)
from msb_cache.cli.considered import considered_because
from msb_cache.cli.deletions import failures, operation_of
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.main import EXIT_BOUND
from msb_cache.cli.prune import print_report, show
from msb_cache.cli.rules import bound_missed, policy_in
from msb_cache.cli.signing import StayingOptions, logging_to, staying_signing_options
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.cache import ImageCache
    from msb_cache.care.gc import GcRun

_PROGRAM = "msb-cache gc"
_FIELDS = ("outcome", "images", "bytes_missing", "missing_for", "error", "seconds")
"""What JSON has of a run beside its report."""


@click.command(
    short_help="Keep the cache small by its policy file.",
    epilog=examples(
        "msb-cache gc --dry-run",
        "msb-cache gc",
        "msb-cache gc --every 15m",
        "msb-cache gc --every 15m --sign log.key --sign-every 1h --checkpoint-to /mnt/worm/log.notes",
    ),
)
@click.option("--every", metavar="DURATION", help="Stay, and do it now and each time so much has passed.")
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would go; nothing is recorded.")
@click.option(
    "--max-delete", metavar="N|SHARE", help="Delete nothing if more would go, whatever the policy says."
)
@click.option("--policy-file", type=PATH, metavar="PATH", help="Another policy file than the home's.")
@staying_signing_options
@reason_option
@shown_options("the operation's id, or with --dry-run references")
@click.pass_obj
def gc(
    home: str | None,
    every: str | None,
    dry_run: bool,
    max_delete: str | None,
    policy_file: str | None,
    signing: StayingOptions,
    reason: str | None,
    shown: Shown,
) -> int:
    """Delete what the policy file says, without a question, as `prune --policy --yes`.

    With --every it stays until SIGTERM or Ctrl-C, reads the file anew each time, and logs each image that
    goes, and why, to stderr; with --quiet warnings only. A signal ends a deletion between two files. See
    `msb-cache policy`.

    With --sign it signs the log after the run, as `checkpoint` does, and delivers the note; with --every also
    between two runs, each time that is due. If not all that are needed cosigned it, or it could not be
    delivered, the exit code is 1; with --every that is a warning, and tried again.
    """
    from msb_cache.models import ImagePruneReport
    from msb_cache.retention.policy import PrunePolicy

    if not dry_run:
        shown.expect(*ImagePruneReport.__struct_fields__, *_FIELDS)
    if every is not None:
        if dry_run:
            raise click.UsageError("--dry-run looks once; give it without --every")
        return _stay(home, every, max_delete, policy_file, signing, reason, shown)
    if signing.sign_every:
        raise click.UsageError("--sign-every says when to sign again; give it with --every")
    if dry_run and signing.signing.sign is not None:
        raise click.UsageError("--dry-run records nothing; give it without --sign")
    with (
        stopping() as stopped,
        open_cache(home, reason=reason, quiet=shown.quiet, program=_PROGRAM) as cache,
    ):
        policy = policy_in(cache, PrunePolicy(max_delete=max_delete), policy_file)
        try:
            if dry_run:
                return show(cache.plan_prune(policy), policy.recorded(), shown)
            with progress.deleting(not shown.as_table) as report:
                run = cache.gc(policy, report=report)
            code = _tell(run, shown)
            return max(code, _sign(cache, signing))
        except KeyboardInterrupt:
            output.line("stopped", err=True)
            return stopped.exit_code


COMMAND = gc


def _tell(run: GcRun, shown: Shown) -> int:
    """Say what one run did, and return its exit code."""
    if run.shortfall:
        output.error(bound_missed(run.short_of, run.shortfall))
    shown.item(
        lambda: jsonable(run),
        names=lambda: operation_of(run.report),
        table=lambda: print_report(run.report, "Nothing to collect."),
        paged=False,
    )
    return max(failures(run.report), default=EXIT_BOUND if run.shortfall else 0)


def _sign(cache: ImageCache, signing: StayingOptions) -> int:
    """Sign the log if that is wanted, and return the exit code for what came of it."""
    plan = signing.plan(lambda _: None)
    found = None if plan is None else cache.attest(plan)
    if found is None or found.problem is None:
        return 0
    output.error(found.problem)
    return 1


def _stay(
    home: str | None,
    every: str,
    max_delete: str | None,
    policy_file: str | None,
    signing: StayingOptions,
    reason: str | None,
    shown: Shown,
) -> int:
    log = _Log(staying_logger(quiet=shown.quiet), shown)  # opening can have something to say
    with (
        stopping() as stopped,
        open_cache(home, reason=reason, program=_PROGRAM, said=log.note) as cache,
    ):
        where = {"home": str(cache.home), "every": every}
        cut = cache.keep_small(
            every,
            log.run,
            path=policy_file,
            max_delete=max_delete,
            stopped=stopped,
            apart=True,
            started=lambda: log.info("gc.started", **where),
            sign=signing.plan(log.attested),
        )
        log.info("gc.stopped", **where)
    return stopped.exit_code if cut else 0


class _Log:
    """Logs what a process that stays decides: a line for each image that goes, and one for each run."""

    def __init__(self, logger: Any, shown: Shown) -> None:
        self._log = logger
        self._shown = shown
        self.info = logger.info
        self.attested = logging_to(logger)

    def note(self, sentence: str) -> None:
        """Log what is unusual."""
        self._log.warning("note", said=sentence)

    def run(self, run: GcRun) -> None:
        """Log what one run did; also as a line on stdout, if a format for programs is wanted."""
        fields = jsonable(run)
        self._shown.as_they_come(
            [fields], fields=dict, name=lambda each: each["operation"], line=lambda _: None
        )
        for image, each in zip(run.images, fields["images"], strict=True):
            self._log.info(
                "gc.image",
                image=each["reference"],
                digest=output.short(each["digest"]),
                rule=each["policy_rule"],
                because=considered_because(image, run.policy, named=False),
                bytes=each["freed_bytes"],
            )
        if run.error is not None:
            self._error(run)
        elif run.outcome == "nothing":
            self._log.debug("gc.run", outcome="nothing", seconds=round(run.seconds, 3))
        else:
            whole = run.outcome == "completed"
            (self._log.info if whole else self._log.warning)(
                "gc.run",
                operation=run.report.operation,
                images=len(run.images),
                bytes=(run.report.bytes_reclaimed or 0) + run.report.flat_bytes_reclaimed,
                outcome=run.outcome,
                seconds=round(run.seconds, 3),
            )
        if run.shortfall:
            self._log.warning("gc.short", said=bound_missed(run.short_of, run.shortfall))

    def _error(self, run: GcRun) -> None:
        if run.outcome == "failed":
            self._log.error("gc.failed", said=run.error)
        elif not (run.outcome == "mistake" and run.again):
            event = "gc.policy" if run.outcome == "mistake" else "gc.held-back"
            self._log.warning(event, said=run.error)
