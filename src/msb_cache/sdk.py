"""Names of microsandbox's Python SDK that programs on images import beside ``Image``.

What needs no sandbox is defined here. What makes or describes sandboxes is the SDK's, if it is installed.
"""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import Any


class PullPolicy(StrEnum):
    """When a registry is asked for an image."""

    ALWAYS = "always"
    IF_MISSING = "if-missing"
    NEVER = "never"


class DiskImageFormat(StrEnum):
    """The formats of disk images that sandboxes boot from."""

    QCOW2 = "qcow2"
    RAW = "raw"
    VMDK = "vmdk"


OF_SANDBOXES = frozenset(
    {
        "ImageSource",
        "ImageSourceKind",
        "PullEvent",
        "PullEventType",
        "PullSession",
        "RegistryAuth",
        "RootDisk",
        "RootDiskConfig",
        "RootDiskKind",
        "Sandbox",
    }
)
"""Names that are the SDK's own objects here too."""


def enumeration(name: str) -> Any:
    """Return an enumeration: the SDK's where it is installed, for the SDK refuses other ones; else ours."""
    try:
        return of_sdk(name)
    except ImportError:
        return {"PullPolicy": PullPolicy, "DiskImageFormat": DiskImageFormat}[name]


def of_sdk(name: str) -> Any:
    """Return what microsandbox's SDK has under a name.

    Raises:
        ImportError: the SDK is not installed, or has no such name.
    """
    try:
        installed = import_module("microsandbox")
    except ImportError:
        raise ImportError(
            f"{name} is a part of microsandbox's SDK, which is not installed: pip install microsandbox"
        ) from None
    try:
        return getattr(installed, name)
    except AttributeError:
        raise ImportError(f"the microsandbox that is installed has no {name}: upgrade it") from None
