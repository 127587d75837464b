"""The options of ``events`` that deliver events to a receiver, and doing so."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from msb_cache.cli.common import PATH, a_file, done, stopping
from msb_cache.cli.formats import Shown

if TYPE_CHECKING:
    from pathlib import Path

    from msb_cache.cache import ImageCache
    from msb_cache.queries.events import Filters

F = TypeVar("F", bound=Callable[..., Any])


class Delivery(NamedTuple):
    """What the options say of where events go, and how."""

    post: str
    position: str | None
    post_secret_file: str | None
    post_header_file: str | None
    batch: int | None
    insecure: bool
    ca_certs: Path | None


_OPTIONS = (
    click.option(
        "--post",
        metavar="URL",
        help="Deliver them there as CloudEvents instead, in order, each at least once.",
    ),
    click.option(
        "--position",
        type=PATH,
        metavar="FILE",
        help="Where --post keeps how far it has come; default: in your state folder, for this home and URL.",
    ),
    click.option(
        "--post-secret-file",
        type=PATH,
        metavar="FILE",
        help="Sign what --post sends with its secrets, one a line; else $MSB_CACHE_POST_SECRET.",
    ),
    click.option(
        "--post-header-file",
        type=PATH,
        metavar="FILE",
        help="Send its headers, `Name: value` in a line, with --post.",
    ),
    click.option(
        "--batch", type=click.IntRange(1, 1000), metavar="N", help="Up to N events in a request of --post."
    ),
    click.option("--insecure", is_flag=True, help="Let --post go by plain HTTP, and accept any certificate."),
    click.option(
        "--ca-certs",
        metavar="PEM",
        type=PATH,
        callback=a_file,
        help="Let --post trust these authorities too.",
    ),
)


def posting_options(command: F) -> F:
    """Add ``--post URL`` and what belongs to it; the command gets a ``Delivery`` or None as ``delivery``.

    What is delivered are CloudEvents: with ``--post`` that is the format that ``shown`` says.
    """

    @wraps(command)
    def called(*arguments: Any, shown: Shown, **given: Any) -> Any:
        options = {name: given.pop(name) for name in Delivery._fields}
        delivery = None
        if options["post"] is not None:
            delivery = Delivery(**options)
            if shown.kind not in ("table", "cloudevents"):
                raise click.UsageError("--post sends CloudEvents; give it without another --format")
            shown = shown._replace(kind="cloudevents")
        elif alone := [name for name, value in options.items() if value]:
            raise click.UsageError(f"--{alone[0].replace('_', '-')} belongs to --post URL")
        return command(*arguments, shown=shown, delivery=delivery, **given)

    wrapped: Any = called
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def deliver(
    cache: ImageCache,
    delivery: Delivery,
    filters: Filters,
    *,
    follow: bool,
    with_config: bool,
    people: bool,
    quiet: bool,
) -> int:
    """Deliver events, and say how many; return the exit code."""
    from msb_cache.interchange.receiver import WebhookReceiver, read_headers, read_secrets
    from msb_cache.wording import plural

    header_file = delivery.post_header_file
    receiver = WebhookReceiver(
        delivery.post,
        secrets=read_secrets(delivery.post_secret_file),
        headers={} if header_file is None else read_headers(header_file),
        ca_certs=delivery.ca_certs,
        insecure=delivery.insecure,
    )
    with stopping() as stopped:
        posted = cache.post_events(
            receiver,
            position=delivery.position,
            batch=delivery.batch,
            follow=follow,
            with_config=with_config,
            people=people,
            stopped=stopped,
            **filters,
        )
    if not quiet:
        done("Delivered", f"{plural(posted.events, 'event')} to {receiver.name}, up to @{posted.seq}")
    return stopped.exit_code if stopped() and not follow else 0
