"""Image references: Docker's reference grammar, its short forms and their canonical form.

Not for resolving them. The grammar is github.com/distribution/reference's:
``[registry[:port]/]repository[:tag][@digest]``. Every start of the command line parses one, so this module
imports nothing but ``re``.
"""

from __future__ import annotations

import re

from msb_cache.errors import InvalidReferenceError
from msb_cache.oci.digest import digest_problem, shown

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
MAX_NAME_CHARACTERS = 255
MAX_TAG_CHARACTERS = 128

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# These are compiled when first used: many references need none of them.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?"
_HEX64 = r"[0-9a-f]{64}"


class Reference:
    """A parsed image reference; equal and hashable by its canonical form, shown in its familiar one.

    ``typed`` is the text that was parsed.
    """

    __slots__ = ("_canonical", "digest", "registry", "repository", "tag", "typed")

    registry: str
    repository: str
    tag: str | None
    digest: str | None
    typed: str | None
    _canonical: str

    def __init__(
        self, registry: str, repository: str, tag: str | None, digest: str | None, typed: str | None = None
    ) -> None:
        canonical = f"{registry}/{repository}"
        if tag is not None:
            canonical += ":" + tag
        if digest is not None:
            canonical += "@" + digest
        for name, value in zip(
            ("registry", "repository", "tag", "digest", "typed", "_canonical"),
            (registry, repository, tag, digest, typed, canonical),
            strict=True,
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Reference cannot be changed (tried to set {name})")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Reference cannot be changed (tried to delete {name})")

    def __reduce__(self) -> tuple[type[Reference], tuple[str, str, str | None, str | None, str | None]]:
        return Reference, (self.registry, self.repository, self.tag, self.digest, self.typed)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse what a person or a document wrote; ``latest`` is added when it has neither tag nor digest.

        Raises InvalidReferenceError with one sentence that says what is wrong.
        """
        rest, digest = _split_digest(text)
        name, tag = _split_tag(text, rest)
        registry, repository = _split_registry(text, name)
        _check_repository(text, registry, repository)
        if tag is None and digest is None:
            tag = DEFAULT_TAG
        return cls(registry, repository, tag, digest, text)

    @property
    def name(self) -> str:
        """Registry and repository without tag and digest: ``docker.io/library/python``."""
        return f"{self.registry}/{self.repository}"

    @property
    def canonical(self) -> str:
        """The full form, ``docker.io/library/python:3.12``.

        A tag and a digest are both kept, as Docker does.
        """
        return self._canonical

    @property
    def familiar_name(self) -> str:
        """The shortest name that parses back to this registry and repository: ``python``."""
        if self.registry != DEFAULT_REGISTRY:
            return self.name
        short = self.repository.removeprefix("library/")
        if "/" in short:
            short = self.repository
        head, slash, _ = short.partition("/")
        # docker.io/foo.bar/x must stay long: foo.bar/x would be the registry foo.bar.
        if (slash and _is_registry(head)) or re.fullmatch(_HEX64, short):
            return self.name
        return short

    @property
    def familiar(self) -> str:
        """The form shown to people, ``python:3.12``; it always parses back to this reference."""
        return self.familiar_name + self._canonical[len(self.registry) + 1 + len(self.repository) :]

    @property
    def spelling(self) -> str | None:
        """How it was typed; None: in its familiar form, or it was not typed."""
        return None if self.typed == self.familiar else self.typed

    def untyped(self) -> Reference:
        """Return the same reference, of which it is not known how a person typed it."""
        return Reference(self.registry, self.repository, self.tag, self.digest)

    def __eq__(self, other: object) -> bool:
        return self._canonical == other._canonical if isinstance(other, Reference) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self._canonical < other._canonical if isinstance(other, Reference) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._canonical)

    def __str__(self) -> str:
        return self.familiar

    def __repr__(self) -> str:
        return f"Reference.parse({self.familiar!r})"


def _refused(text: str, problem: str) -> InvalidReferenceError:
    return InvalidReferenceError(f"{shown(text)} is not an image reference: {problem}")


def _split_digest(text: str) -> tuple[str, str | None]:
    if not text:
        raise InvalidReferenceError("an empty text is not an image reference")
    if "://" in text and re.match(_SCHEME, text):
        raise _refused(text, "write it without the leading scheme, as in registry.example/name:tag")
    if " " in text or not text.isprintable():  # of the spaces, only this one is printable
        raise _refused(text, "it contains a space or a control character")
    rest, at, digest = text.partition("@")
    if not at:
        return rest, None
    problem = digest_problem(digest)
    if problem is not None:
        raise _refused(text, f"the part after '@' {problem}")
    return rest, digest


def _split_tag(text: str, rest: str) -> tuple[str, str | None]:
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:  # the colon belongs to the registry's port
        return rest, None
    if not tag:
        raise _refused(text, "there is no tag after ':'")
    if len(tag) > MAX_TAG_CHARACTERS:
        raise _refused(text, f"its tag is longer than {MAX_TAG_CHARACTERS} characters")
    if not _TAG.fullmatch(tag):
        raise _refused(
            text, f"the tag {shown(tag)} has a character other than letters, digits, '_', '.' and '-'"
        )
    return name, tag


def _is_registry(head: str) -> bool:
    return "." in head or ":" in head or head == "localhost"


def _is_host(head: str) -> bool:
    if head.isascii() and all(map(str.isalnum, head.split("."))):
        return True  # as most are, for which no pattern need be compiled
    return re.fullmatch(_REGISTRY, head) is not None


def _split_registry(text: str, name: str) -> tuple[str, str]:
    head, slash, rest = name.partition("/")
    if not slash or not _is_registry(head):
        if not slash and head.startswith("["):
            raise _refused(text, "it has a registry but no repository")
        registry, repository = DEFAULT_REGISTRY, name
    else:
        if len(head) > MAX_NAME_CHARACTERS:  # first, because the pattern below backtracks
            raise _refused(text, f"its registry is longer than {MAX_NAME_CHARACTERS} characters")
        if not _is_host(head):
            raise _refused(text, f"{shown(head)} is not a registry's host name")
        registry, repository = head, rest
        if registry == "index.docker.io":
            registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and repository and "/" not in repository:
        # Docker applies this before adding library/: 64 hex digits alone would be an image ID.
        if re.fullmatch(_HEX64, repository):
            raise _refused(text, "64 hex digits alone are an image ID, not a repository")
        repository = "library/" + repository
    return registry, repository


def _check_repository(text: str, registry: str, repository: str) -> None:
    if not repository:
        raise _refused(text, "there is no repository name")
    if len(repository) > MAX_NAME_CHARACTERS:
        raise _refused(text, f"its repository name is longer than {MAX_NAME_CHARACTERS} characters")
    for component in repository.split("/"):
        if _COMPONENT.fullmatch(component):
            continue
        if not component:
            raise _refused(text, "its repository name has an empty part")
        if _COMPONENT.fullmatch(component.lower()):
            raise _refused(text, "a repository name must be lower case")
        raise _refused(
            text,
            f"{shown(component)} must be lower-case letters and digits, separated by '.', '_', '__' or '-'",
        )


def familiar(canonical: str) -> str:
    """Return the form in which a stored reference is shown to people: ``python:3.12``."""
    return Reference.parse(canonical).familiar if canonical.startswith("docker.io/") else canonical


def as_typed(canonical: str, spelling: str | None) -> str:
    """Return how people see a reference: as it was typed, in familiar form if that is not known."""
    return spelling or familiar(canonical)


def repository(canonical: str) -> str:
    """Return the repository of a canonical reference: what stands before the tag or digest."""
    name = canonical.partition("@")[0]
    path, colon, tag = name.rpartition(":")
    return path if colon and "/" not in tag else name
