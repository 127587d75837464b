"""Platforms and choosing one manifest of several, as containerd does. Not for what the machine can emulate.

Source: containerd ``platforms`` (normalisation and the compatibility order of variants) and the OCI
image-spec, image-index.md. Only variants of the same architecture are compatible here: containerd would also
offer 386 on amd64 and arm on arm64, but a guest kernel is not obliged to run 32-bit programs.
"""

from __future__ import annotations

import os as _os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msb_cache.errors import InvalidImageError
from msb_cache.oci.digest import shown

_MAX_TEXT = 128
_ARCHITECTURES = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "i386": ("386", None),
    "i486": ("386", None),
    "i586": ("386", None),
    "i686": ("386", None),
    "aarch64": ("arm64", None),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", None),
}
_DEFAULT_VARIANTS = {"arm": "v7"}
# The variant that says no more than the architecture does.
_BASE_VARIANTS = {("amd64", "v1"), ("arm64", "v8")}


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system, architecture (Go's names) and variant, normalised by the constructors below."""

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def of(cls, os: str, architecture: str, variant: str | None = None) -> Platform:
        """Normalise: ``x86_64`` is ``amd64``, ``arm64/v8`` is ``arm64``, ``arm`` is ``arm/v7``."""
        os, architecture = os.lower(), architecture.lower()
        variant = (variant or "").lower()
        architecture, implied = _ARCHITECTURES.get(architecture, (architecture, None))
        if variant.isdecimal():
            variant = "v" + variant
        variant = variant or implied or _DEFAULT_VARIANTS.get(architecture, "")
        if (architecture, variant) in _BASE_VARIANTS:
            variant = ""
        return cls(os, architecture, variant or None)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse ``os/architecture[/variant]``, as in ``linux/arm64/v8``; raises InvalidImageError."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts) or len(text) > _MAX_TEXT or not text.isascii():
            raise InvalidImageError(f"{shown(text)} is not a platform of the form os/architecture[/variant]")
        return cls.of(*parts)

    @classmethod
    def host(cls) -> Platform:
        """The platform of guests on this machine: always Linux, with this machine's architecture."""
        return cls.of("linux", _os.uname().machine)

    def compatible(self) -> tuple[Platform, ...]:
        """What may run where this platform is wanted, best first: itself, then ever lower variants."""
        variant = self.variant or {"arm64": "v8"}.get(self.architecture, "")
        found = [self]
        major, _, minor = variant.removeprefix("v").partition(".")
        if variant.startswith("v") and major.isascii() and major.isdecimal() and len(major) <= 2:
            if minor:
                found.append(Platform.of(self.os, self.architecture, "v" + major))
            lowest = {"arm": 5, "arm64": 8}.get(self.architecture, 1)
            found += [
                Platform.of(self.os, self.architecture, f"v{n}")
                for n in range(int(major) - 1, lowest - 1, -1)
            ]
        return tuple(dict.fromkeys(found))

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


def best_match(wanted: Platform, offered: Sequence[Platform | None]) -> int | None:
    """Position of the offered platform that suits ``wanted`` best (the first of equals), or None."""
    for candidate in wanted.compatible():
        for position, platform in enumerate(offered):
            if platform == candidate:
                return position
    return None


def listed(platforms: Iterable[Platform | None]) -> str:
    """The platforms as words for a message, each once."""
    names = list(dict.fromkeys(str(platform) for platform in platforms if platform is not None))
    if len(names) > 12:
        names = [*names[:12], f"{len(names) - 12} more"]
    return shown(", ".join(names))[1:-1] if names else "no platform"
