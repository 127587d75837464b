import contextlib
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.errors import InvalidReferenceError
from msb_cache.oci.reference import Reference

DIGEST = "sha256:" + "a" * 64
HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("python", "docker.io/library/python:latest", "python:latest"),
        ("python:3.12", "docker.io/library/python:3.12", "python:3.12"),
        ("docker.io/python:3.12", "docker.io/library/python:3.12", "python:3.12"),
        ("docker.io/library/python:3.12", "docker.io/library/python:3.12", "python:3.12"),
        ("index.docker.io/python", "docker.io/library/python:latest", "python:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
        ("someone/thing:v1", "docker.io/someone/thing:v1", "someone/thing:v1"),
        ("ghcr.io/a/b/c", "ghcr.io/a/b/c:latest", "ghcr.io/a/b/c:latest"),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("localhost:5000/a:1", "localhost:5000/a:1", "localhost:5000/a:1"),
        ("host:5000/a", "host:5000/a:latest", "host:5000/a:latest"),
        ("[::1]:5000/a:1", "[::1]:5000/a:1", "[::1]:5000/a:1"),
        ("[2001:db8::1]/a", "[2001:db8::1]/a:latest", "[2001:db8::1]/a:latest"),
        ("GHCR.IO/a:1", "GHCR.IO/a:1", "GHCR.IO/a:1"),
        (f"python@{DIGEST}", f"docker.io/library/python@{DIGEST}", f"python@{DIGEST}"),
        (f"python:3@{DIGEST}", f"docker.io/library/python:3@{DIGEST}", f"python:3@{DIGEST}"),
        ("a__b/c.d-e--f_g", "docker.io/a__b/c.d-e--f_g:latest", "a__b/c.d-e--f_g:latest"),
        ("t:UPPER_tag.1-x", "docker.io/library/t:UPPER_tag.1-x", "t:UPPER_tag.1-x"),
        # Shortened, these would be read as something else.
        ("docker.io/foo.bar/x", "docker.io/foo.bar/x:latest", "docker.io/foo.bar/x:latest"),
        ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
        ("docker.io/library/x/y", "docker.io/library/x/y:latest", "library/x/y:latest"),
        ("library", "docker.io/library/library:latest", "library:latest"),
        (f"docker.io/library/{HEX}", f"docker.io/library/{HEX}:latest", f"docker.io/library/{HEX}:latest"),
        ("1.0", "docker.io/library/1.0:latest", "1.0:latest"),
    ],
)
def test_forms(text: str, canonical: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert (reference.canonical, reference.familiar, str(reference)) == (canonical, familiar, familiar)
    assert Reference.parse(canonical) == Reference.parse(familiar) == reference
    assert hash(Reference.parse(canonical)) == hash(reference)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "an empty text"),
        (" python", "a space or a control character"),
        ("py\nthon", "'py\\nthon' is not an image reference"),
        ("py\x1b[2Jthon", "\\x1b"),
        ("Python", "must be lower case"),
        ("someone/Thing", "must be lower case"),
        ("Foo/bar", "must be lower case"),
        ("python:", "no tag after ':'"),
        ("python:a b", "a space"),
        ("python:-1", "the tag '-1'"),
        ("python:1/2:", "no tag"),
        ("python:" + "1" * 129, "tag is longer than 128"),
        ("python@", "after '@'"),
        ("python@sha256:abc", "is not a digest of the form"),
        (f"python@{DIGEST.upper()}", "is not a digest of the form"),
        ("python@sha512:" + "0" * 128, "only sha256 is supported"),
        (f"python@{DIGEST}@{DIGEST}", "is not a digest"),
        ("https://docker.io/python", "without the leading scheme"),
        ("/python", "an empty part"),
        ("a//b", "an empty part"),
        ("a/", "an empty part"),
        ("ghcr.io/", "no repository name"),
        (f"@{DIGEST}", "no repository name"),
        (":tag", "no repository name"),
        (HEX, "are an image ID"),
        (f"{HEX}:1", "are an image ID"),
        ("a_-b", "must be lower-case letters and digits"),
        ("-a", "must be lower-case letters and digits"),
        ("pythön", "must be lower-case letters and digits"),
        ("exa_mple.com/a", "is not a registry's host name"),
        ("exämple.com/a", "is not a registry's host name"),
        ("-x.com/a", "is not a registry's host name"),
        ("a.com:port/a", "is not a registry's host name"),
        ("a.com:123456/a", "is not a registry's host name"),
        ("x" * 256, "repository name is longer than 255"),
        ("x." * 200 + "/a", "registry is longer than 255"),
        ("a-" * 100_000 + "./b", "registry is longer than 255"),
        ("a\udcffb", "\\udcff"),
        ("../../etc/passwd", "is not a registry's host name"),
        ("a/../b", "must be lower-case letters"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        Reference.parse(text)
    message = str(caught.value)
    assert problem in message
    assert message.isprintable()
    assert len(message) < 500


component = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-)[a-z0-9]{1,5}){0,2}", fullmatch=True)


@given(
    st.sampled_from(["", "docker.io/", "ghcr.io/", "localhost/", "h:1/", "index.docker.io/"]),
    st.lists(component, min_size=1, max_size=3),
    st.one_of(st.just(""), st.from_regex(r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}", fullmatch=True)),
    st.sampled_from(["", "@" + DIGEST]),
)
def test_both_forms_parse_back(registry: str, parts: list[str], tag: str, digest: str) -> None:
    if "." in parts[0]:  # would be read as a registry
        registry = registry or "docker.io/"
    reference = Reference.parse(registry + "/".join(parts) + tag + digest)
    assert Reference.parse(reference.canonical) == reference
    assert Reference.parse(reference.familiar) == reference
    assert len(reference.familiar) <= len(reference.canonical)


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidReferenceError):
        assert Reference.parse(text).familiar.isprintable()


def test_it_is_a_value() -> None:
    reference = Reference.parse("python:3.12")
    assert reference.name == "docker.io/library/python"
    assert (reference.registry, reference.repository, reference.tag, reference.digest) == (
        "docker.io",
        "library/python",
        "3.12",
        None,
    )
    with pytest.raises(AttributeError):
        reference.tag = "other"
    with pytest.raises(AttributeError):
        del reference.tag
    assert pickle.loads(pickle.dumps(reference)) == reference
    assert reference != "docker.io/library/python:3.12"
    assert sorted([Reference.parse("b"), Reference.parse("a")])[0] == Reference.parse("a")
    assert repr(reference) == "Reference.parse('python:3.12')"


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from msb_cache.oci.reference import Reference; Reference.parse('a');"
        "heavy = {'msgspec', 'hashlib', 'backports.zstd', 'dataclasses', 'inspect', 'json'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0]={sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
