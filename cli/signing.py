"""The options of commands that sign checkpoints: which key signs, which witnesses cosign, what is enough.

Of commands that stay also when they sign, and where to they deliver that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from msb_cache.cli.common import PATH, a_file
from msb_cache.cli.trust import policy_option, read_policy

if TYPE_CHECKING:
    from pathlib import Path

    from msb_cache.audit.checkpoints import Signing
    from msb_cache.audit.notary import Attested, SigningPlan

F = TypeVar("F", bound=Callable[..., Any])


class SigningOptions(NamedTuple):
    """What the options say."""

    sign: str | None
    sign_command: str | None
    witness: tuple[str, ...]
    witness_key: tuple[str, ...]
    policy: str | None
    ca_certs: Path | None

    def read(self) -> Signing | None:
        """Return who signs and who is asked to cosign; None: nothing is signed.

        Raises:
            InvalidConfigError: a key, a policy or a URL cannot be used.
        """
        if self.sign is None:
            return None
        from msb_cache.audit.checkpoints import Signing
        from msb_cache.proof.signer import signer_of
        from msb_cache.proof.vkey import VerifierKey

        return Signing.of(
            signer_of(self.sign, self.sign_command),
            urls=self.witness,
            keys=[VerifierKey.parse(each) for each in self.witness_key],
            policy=read_policy(self.policy),
            ca_certs=self.ca_certs,
        )


class StayingOptions(NamedTuple):
    """What the options of a command say that signs by itself."""

    signing: SigningOptions
    sign_every: tuple[str, ...]
    checkpoint_to: str | None
    checkpoint_command: str | None

    def plan(self, told: Callable[[Attested], object]) -> SigningPlan | None:
        """Return it, with what is told of each attempt; None: nothing is signed."""
        if self.signing.sign is None:
            return None
        from msb_cache.audit.notary import SigningPlan

        return SigningPlan(
            self._read,
            every=self.sign_every or "15m",
            file=None if self.checkpoint_to is None else os.path.abspath(self.checkpoint_to),
            command=self.checkpoint_command,
            told=told,
        )

    def _read(self) -> Signing:
        found = self.signing.read()
        assert found is not None  # noqa: S101
        return found


def _options(what: str) -> tuple[Callable[[F], F], ...]:
    return (
        click.option(
            "--sign",
            type=PATH,
            metavar="KEY",
            help=f"Sign {what}: a secret key file, or a verifier key of which an ssh-agent has the secret.",
        ),
        click.option(
            "--sign-command",
            metavar="COMMAND",
            help="Runs for each signature of a verifier key: reads what to sign, writes 64 bytes.",
        ),
        click.option(
            "--witness", multiple=True, metavar="URL", help="Let this witness cosign it; repeatable."
        ),
        click.option(
            "--witness-key",
            multiple=True,
            metavar="VKEY",
            help="A key that witnesses sign with; repeatable. Those of the policy are known.",
        ),
        click.option(
            "--ca-certs",
            metavar="PEM",
            type=PATH,
            callback=a_file,
            help="Trust these authorities of witnesses too.",
        ),
    )


_STAYING = (
    click.option(
        "--witness-policy",
        "policy",
        type=PATH,
        metavar="FILE",
        help="Which witnesses must have cosigned (C2SP tlog-policy).",
    ),
    click.option(
        "--sign-every",
        multiple=True,
        metavar="N|DURATION",
        help="Sign again after so many events, or so long if any came; repeatable. Default: 15m.",
    ),
    click.option(
        "--checkpoint-to", type=PATH, metavar="FILE", help="Append each signed checkpoint to this file."
    ),
    click.option(
        "--checkpoint-command", metavar="COMMAND", help="Runs for each, with the note on standard input."
    ),
)


def signing_options(command: F) -> F:
    """Add ``--sign KEY`` and what belongs to it; the command gets ``SigningOptions`` as ``signing``."""

    @wraps(command)
    def called(*arguments: Any, **given: Any) -> Any:
        return command(*arguments, signing=_taken(given), **given)

    wrapped: F = _with(called, (*_options("it"), policy_option))
    return wrapped


def staying_signing_options(command: F) -> F:
    """Add the same, and when to sign and where to it goes; the command gets ``StayingOptions``."""

    @wraps(command)
    def called(*arguments: Any, **given: Any) -> Any:
        more = {name: given.pop(name) for name in StayingOptions._fields[1:]}
        signing = StayingOptions(_taken(given, more), **more)
        return command(*arguments, signing=signing, **given)

    wrapped: F = _with(called, (*_options("the log"), *_STAYING))
    return wrapped


def _taken(given: dict[str, Any], more: dict[str, Any] | None = None) -> SigningOptions:
    """Take the options out of what a command was given; refuse what is there without a key."""
    signing = SigningOptions(**{name: given.pop(name) for name in SigningOptions._fields})
    if signing.sign is None:
        for parameter in click.get_current_context().command.params:
            if {**signing._asdict(), **(more or {})}.get(parameter.name or ""):
                raise click.UsageError(f"{parameter.opts[0]} belongs to --sign KEY")
    if more is not None and signing.policy == "-":
        raise click.UsageError("--witness-policy is read each time; give a file, not stdin")
    return signing


def _with(command: Any, options: tuple[Callable[[Any], Any], ...]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


def logging_to(logger: Any) -> Callable[[Attested], None]:
    """Return what logs each attempt to sign a log by itself, in whatever thread that is."""

    def told(found: Attested) -> None:
        if found.steps and found.checkpoint is not None:
            logger.info(
                f"checkpoint.{found.steps[0]}",
                events=found.checkpoint.size,
                origin=found.checkpoint.origin,
                cosigned=[each.name for each in found.checkpoint.cosigned],
            )
        if found.problem is not None and not found.again:
            logger.warning("checkpoint.failed", said=found.problem)

    return told
