"""The policy file: a first one, and what its rules make of an image."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from msb_cache.artifacts.durable import Changes, make_folder
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.measured import MeasuredFiles
from msb_cache.errors import ImageNotFoundError, InvalidConfigError
from msb_cache.oci.digest import shown
from msb_cache.queries import policy_file, resolve
from msb_cache.queries.policy import rules_of
from msb_cache.retention.policy import CachePolicy
from msb_cache.retention.rules import RuleVerdict, verdicts_on
from msb_cache.session import Session

FIRST = """\
# What `msb-cache gc` and `msb-cache prune --policy` delete, in the words of `msb-cache prune`.
# `msb-cache policy check` says what is wrong with it, `msb-cache policy test REF` what it does to an image,
# and `msb-cache prune --policy --dry-run` what would go now.
#
# What is held, running or pinned never goes, and what was pulled or used within the last hour stays.

# If more would go at once, nothing does. Without this line it is 90% of ten images or more.
max-delete = "50%"

# What no rule takes.
[keep]
references = []  # such as "python", "registry.example/base/*"
labels = []  # such as "keep" or "stage=production"

# Rules go in order, and each sees what those before it left.
[[rule]]
name = "idle"
unused-for = "30d"
keep-last = 1

# [[rule]]
# name = "ci"
# filter = ["reference=ci/*"]
# unused-for = "3d"

# [[rule]]
# name = "size"
# max-size = "80GiB"

# Once so much of the file system is used, the least recently used images go, down to the low mark.
[watermarks]
high = "85%"
low = "80%"
"""


def begin(layout: Layout, *, user: bool) -> Path:
    """Write a policy file to begin with; parameters, result and errors as for ``ImageCache.begin_policy``."""
    path = Path(policy_file.places(layout)[1 if user else 0])
    make_folder(path.parent)
    changes = Changes()
    try:
        changes.write(path, FIRST.encode())
    except FileExistsError:
        raise InvalidConfigError(f"{path} is there already, and stays as it is") from None
    changes.sync()
    return path


def verdicts(session: Session, policy: CachePolicy, reference: str) -> list[RuleVerdict]:
    """Return what each rule makes of an image; parameters and errors as for ``ImageCache.test_policy``."""
    rules = rules_of(policy, session.ledger.clock())
    with session.index() as connection:
        if connection is None:
            raise ImageNotFoundError(f"{shown(reference)} is not in the cache")
        state = session.engine().index_to_judge(
            connection, facts=True, labels=any(each.needs_labels for each in rules)
        )
        try:
            subject = resolve.image(connection, reference).name
        except ImageNotFoundError:
            subject = resolve.manifest(connection, reference)
            if subject not in state.unreferenced:
                raise
    found, said = verdicts_on(subject, rules, state, MeasuredFiles(session.layout)), policy.recorded()
    return [replace(each, policy=said) for each in found]
