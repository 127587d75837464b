"""Every error a caller can meet, under one base class with a stable ``code``.

A leaf: it imports nothing of the project, and every other module may import it. The first five
names and codes are those of microsandbox's Python SDK, so a program that catches them keeps working.
"""

from __future__ import annotations


class MicrosandboxError(Exception):
    """Base of all errors raised here; ``str(error)`` is one sentence for a person."""

    code = "microsandbox-error"


class ImageNotFoundError(MicrosandboxError):
    """The reference is not in the cache."""

    code = "image-not-found"


class ImageInUseError(MicrosandboxError):
    """A sandbox or snapshot still needs the image, or it is pinned.

    ``pinned``: the reference or digest that ``unpin`` takes, empty if no pin is in the way. ``seen_in_msb``:
    it is msb that knows the holder. ``forcible``: whether ``force`` removes it all the same.
    """

    code = "image-in-use"
    seen_in_msb = False
    pinned = ""
    forcible = True


class ImagePullFailedError(MicrosandboxError):
    """The image could not be pulled."""

    code = "image-pull-failed"


class UnsupportedError(MicrosandboxError):
    """The selected backend does not support the call, or what that needs is not installed."""

    code = "unsupported"


class InvalidConfigError(MicrosandboxError):
    """A setting (backend, home, environment variable) is missing or contradicts another."""

    code = "invalid-config"


class IoError(MicrosandboxError):
    """Input or output failed in a sandbox. Never raised here: programs written for the SDK catch it."""

    code = "io-error"


class PathNotFoundError(MicrosandboxError):
    """A path does not exist in a sandbox. Never raised here: programs written for the SDK catch it."""

    code = "path-not-found"


class InvalidReferenceError(MicrosandboxError):
    """The text is not an image reference; the message says what is wrong with it."""

    code = "invalid-reference"


class InvalidImageError(MicrosandboxError):
    """An archive, manifest, config or layer is damaged, lies about a digest, or is refused."""

    code = "invalid-image"


class PlatformNotFoundError(InvalidImageError):
    """An image index has no manifest for the wanted platform."""

    code = "platform-not-found"


class HomeOwnedByMicrosandboxError(MicrosandboxError):
    """``msb`` owns this cache (``db/msb.db`` exists), so it is not written to."""

    code = "home-owned-by-msb"


class HomeNotFoundError(MicrosandboxError):
    """A home that was named, or whose contents were to be verified, does not exist."""

    code = "home-not-found"


class MsbDatabaseError(MicrosandboxError):
    """``db/msb.db`` cannot be read, or holds nothing that this release understands."""

    code = "msb-database"


class BusyError(MicrosandboxError):
    """Another process holds a lock that is needed; trying again later can succeed."""

    code = "busy"


class LogError(MicrosandboxError):
    """The event log cannot be read or written as asked."""

    code = "log-error"


class InvalidQueryError(MicrosandboxError):
    """SQL that was asked is no statement that reads, or SQLite cannot carry it out; the message says why."""

    code = "invalid-query"


class QueryLimitError(MicrosandboxError):
    """SQL that was asked took longer, or more memory, than it may."""

    code = "query-limit"


class OperationNotFoundError(LogError):
    """No operation has that id, or several begin with it."""

    code = "operation-not-found"


class UnknownEventError(LogError):
    """The log holds an event type or version that this release does not know."""

    code = "unknown-event"


class NewerDatabaseError(LogError):
    """The database was written by a newer release."""

    code = "newer-database"


class CorruptLogError(LogError):
    """The log's hash chain or its database does not verify."""

    code = "corrupt-log"


class InvalidProofError(LogError):
    """What is to prove something does not: a note, signature, proof or policy is damaged or another's."""

    code = "invalid-proof"


class SigningError(MicrosandboxError):
    """What has a secret key does not sign: an ssh-agent or a command fails, refuses, or answers wrongly."""

    code = "signing"


class WitnessError(MicrosandboxError):
    """A witness does not cosign a checkpoint: it does not answer or know the log, or finds it rewritten.

    ``status``: its HTTP status; None: it did not answer. ``size``: how many events of the log it says that it
    has cosigned, where that is what is wrong; else None.
    """

    code = "witness"

    def __init__(self, message: str, *, status: int | None = None, size: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.size = size


class CorruptArtifactError(MicrosandboxError):
    """A file in the cache directory is not what the index says it is."""

    code = "corrupt-artifact"


class BoundNotKeptError(MicrosandboxError):
    """A bound that was given for a prune cannot be kept: too little may go, or more would go than may."""

    code = "bound-not-kept"


class DeliveryError(MicrosandboxError):
    """Events cannot be delivered: their receiver refuses one or wants no more, or the position does not fit.

    ``status``: the receiver's HTTP status; None: it was not asked. ``seq``: the first event that was not
    delivered; None: that is not known.
    """

    code = "delivery"

    def __init__(self, message: str, *, status: int | None = None, seq: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.seq = seq


class FleetError(MicrosandboxError):
    """A fleet's server cannot be asked, or it refuses what is sent.

    ``verdict`` is its word where it refused events: ``fork``, ``forged``, ``truncated``, ``claimed``,
    ``full`` or ``unknown``; None: it refused none. ``temporary``: it may answer another time.
    """

    code = "fleet"

    def __init__(self, message: str, *, verdict: str | None = None, temporary: bool = False) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.temporary = temporary


class MsbProgramError(MicrosandboxError):
    """``msb`` was asked to do something in a home that it keeps, and failed; the message has its words."""

    code = "msb-program"
