"""What is told to strangers says nothing that it should not, however deep it stands."""

from __future__ import annotations

from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import Actor, NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.interchange.privacy import LEFT_OUT, Privacy
from msb_cache.models import ImageConfigDetail
from msb_cache.queries.as_of import Hold
from msb_cache.queries.pins import Pin
from msb_cache.retention.plan import Verdict
from msb_cache.retention.policy import CachePolicy, NamedRule, PrunePolicy
from msb_cache.shapes import jsonable
from tests.cli.support import stored
from tests.logs import PYTHON, digest, layer, manifest_added, pulled
from tests.samples import OPERATION, _filled

EVERY = pytest.mark.parametrize("kind", ev.EVENT_TYPES, ids=lambda kind: str(kind.type))
STRANGERS, NOBODY = Privacy(), Privacy(config=True, people=False)

NO_PERSON = (
    "algorithm architecture backup_head blob_digest cause cmd config_digest diff_id digest direction engine "
    "entrypoint env exposed_ports holder holders how kind labels log_id manifest_digest media_type name "
    "noted_head noted_log_id operation os outcome place policy policy_rule previous_digest previous_head "
    "previous_log_id problem reference "
    "replaced_head root row rule run spelling spellings status stop_signal stored_digest subject type undoes "
    "user variant volumes working_dir"
)
"""The fields of events that name no person, machine or folder; ``name`` and ``place`` of an archive apart."""

CONFIG = ev.ImageConfig(env=("TOKEN=secret-1",), labels={"owner": "secret-2"}, cmd=("serve",))


def marked(value: Any, field: str = "") -> Any:
    """Return a sample's plain data with the names of its fields as texts."""
    match value:
        case dict():
            return {name: marked(each, name) for name, each in value.items()}
        case list():
            return [marked(each, field) for each in value]
        case str() if value.startswith("some "):
            return f"/secret-folder/marker-{field}"
    return value


def sample(kind: type[ev.Event]) -> Any:
    """Return an event that says all that one of its type can, of an archive's file where it can be one."""
    own = getattr(kind, "kind", "")
    data = marked(_filled(msgspec.inspect.type_info(kind), own if isinstance(own, str) else ""))
    for name in ("source", "images"):
        for each in [data[name]] if isinstance(data.get(name), dict) else data.get(name, ()):
            each |= {"kind": "archive"} if name == "source" else {"how": "load"} if "how" in each else {}
    return msgspec.convert(data, kind)


@EVERY
def test_every_event_is_told_without_values_of_environments_and_labels(kind: type[ev.Event]) -> None:
    told = jsonable(STRANGERS.of(stored(sample(kind), "it")))
    assert "marker-env" not in str(told)
    assert "value" not in str(told.get("data", {}).get("labels"))
    assert "value" not in str((told["data"].get("config") or {}).get("labels"))


@EVERY
def test_every_event_is_told_without_people(kind: type[ev.Event]) -> None:
    people = {name: f"person-{name}" for name in Actor.__struct_fields__}
    actor = Actor(
        **people | {"uid": 4711, "login_uid": 4712, "observed": True, "claimed": {"person-a": "person-b"}}
    )
    event = replace(stored(sample(kind), "it"), actor=actor)
    told = jsonable(NOBODY.of(event))
    assert told["actor"] == {"user": "", "uid": -1, "host": "", "program": "person-program", "observed": True}
    said = {text.split('"')[0].split("'")[0] for text in str(told["data"]).split("marker-")[1:]}
    assert said <= {*NO_PERSON.split()}, "a new field of an event: does it name people?"
    assert "'name': '/secret-folder" not in str(told["data"].get("source"))
    assert "'place': '/secret-folder" not in str(told["data"])


def test_what_images_and_sandboxes_were_given() -> None:
    event = stored(replace(manifest_added([layer(1)]), config=CONFIG), digest(1))
    told = STRANGERS.of([event])[0]
    assert "secret" not in str(jsonable(told))
    assert told.data.config == ev.ImageConfig(labels={"owner": LEFT_OUT}, cmd=("serve",))
    assert Privacy(config=True).of(event) is event
    hold = Hold("sandbox:a", digest(1), 0, None, labels={"team": "secret-3"})
    assert STRANGERS.of({"holds": (hold,)})["holds"][0].labels == {"team": LEFT_OUT}
    detail = ImageConfigDetail(digest="", env=["A=b"], labels=["odd"], user="node")
    assert STRANGERS.of(detail) == ImageConfigDetail(digest="", labels=LEFT_OUT, user="node")


def test_labels_may_be_any_json_however_deep() -> None:
    deep: Any = "secret"
    for _ in range(100_000):
        deep = [deep]
    event = stored(replace(manifest_added([]), config=ev.ImageConfig(labels=deep)), digest(1))
    assert STRANGERS.of(event).data.config.labels == LEFT_OUT
    assert NOBODY.of(event).data.config.labels is deep
    policy = stored(ev.DeletionStarted(kind="prune", policy={"filter": deep}), OPERATION)
    assert "secret" not in str(jsonable(STRANGERS.of(policy)))
    assert "secret" not in str(jsonable(NOBODY.of(policy)))


@pytest.mark.parametrize(
    ("filter_", "told"),
    [
        ("label=team=secret", f"label=team={LEFT_OUT}"),
        ("label!=team=secret=s", f"label!=team={LEFT_OUT}"),
        ("label=team", "label=team"),
        ("label!=team", "label!=team"),
        ("reference=a=b", "reference=a=b"),
        ("label=team=a\nsecret", f"label=team={LEFT_OUT}"),
    ],
)
def test_filters_of_policies(filter_: str, told: str) -> None:
    rule = PrunePolicy(filter=(filter_,))
    policy = CachePolicy(rules=(NamedRule(name="a", rule=rule),), keep=(filter_,), source="/home/bob/p.toml")
    found = STRANGERS.of(policy)
    assert (found.rules[0].rule.filter, found.keep) == ((told,), (told,))
    started = stored(ev.DeletionStarted(kind="prune", policy=policy.recorded()), OPERATION)
    assert STRANGERS.of(started).data.policy == found.recorded()
    assert NOBODY.of(started).data.policy == policy.recorded() | {"file": "p.toml"}


def test_who_keeps_an_image() -> None:
    def judged(rule: str, *holders: str) -> tuple[str, ...]:
        verdict = NOBODY.of(Verdict("it", rule, by=holders))
        told = NOBODY.of(ev.Judged(subject="it", rule=rule, holders=holders))
        assert told.holders == verdict.by
        return told.holders

    assert judged("pinned", "bob") == ()
    assert judged("held", "sandbox:dev", "snapshot:/home/bob/a") == ("sandbox:dev", "snapshot:a")
    pin = Pin(PYTHON, None, "bob", "because bob said so", 0, None, True)
    assert NOBODY.of(pin) == replaced(pin, by=LEFT_OUT, reason=LEFT_OUT)
    assert STRANGERS.of(pin) == pin


def test_reasons_that_are_a_word_are_told() -> None:
    kept = ev.ArtifactKept(kind="layer", reason="busy")
    assert NOBODY.of(kept) == kept
    failed = ev.ImagePullFailed(reason="/home/bob/a.tar: no such file")
    assert NOBODY.of(failed).reason == LEFT_OUT
    stdin = replace(pulled(digest(1)), source=ev.Source(kind="archive", name="-"))
    assert NOBODY.of(stdin).source.name == "-"
    registry = replace(pulled(digest(1)), source=ev.Source(kind="registry", name="ghcr.io"))
    assert NOBODY.of(registry).source.name == "ghcr.io"


def a_home(home: Path) -> Path:
    """A home in which everything that is private stands somewhere."""
    config = ev.ImageConfig(env=("A=secret-env",), labels={"a": "secret-label"})
    actor = Actor(user="secret-user", uid=1, host="secret-host", program="test", reason="secret-why")
    kept = (ev.Judged(subject=PYTHON, rule="pinned", holders=("secret-user",)),)
    policy = {"filter": ["label=a=secret-label"], "grace": "1h"}
    events = [
        NewEvent(replace(manifest_added([layer(1)]), config=config), digest(1)),
        NewEvent(
            replace(pulled(digest(1)), source=ev.Source(kind="archive", name="/secret-folder/a")), PYTHON
        ),
        NewEvent(ev.ImageHeld(holder="snapshot:/secret-folder/b", labels={"b": "secret-label"}), digest(1)),
        NewEvent(ev.ImagePinned(), PYTHON),
        NewEvent(ev.DeletionStarted(kind="prune", policy=policy, kept=kept), OPERATION),
        NewEvent(ev.DeletionFinished(outcome="completed"), OPERATION),
    ]
    ledger = Ledger(Layout(home), actor=actor)
    with ledger.write(OPERATION) as transaction:
        transaction.append(events)
    ledger.close()
    return home


def test_results_of_a_whole_home(tmp_path: Path) -> None:
    home = a_home(tmp_path / "secret-folder" / "home")
    with ImageCache(home) as cache:
        operation = cache.prunes()[0].operation
        found = {
            "list": cache.list(),
            "inspect": cache.inspect(PYTHON),
            "history": cache.history(PYTHON),
            "events": cache.events(),
            "prunes": cache.prunes(),
            "report": cache.prune_report(operation),
            "holders": cache.holders(PYTHON),
            "pins": cache.pins(),
            "last_used": cache.last_used(),
            "why": cache.why(PYTHON),
            "df": cache.disk_usage(),
            "info": cache.info(),
            "diff": cache.diff(1, "now"),
        }
    whole = str(jsonable(found))
    for said in ("secret-env", "secret-label", "secret-user", "secret-host", "secret-why", "secret-folder"):
        assert said in whole
    strange = str(jsonable(STRANGERS.of(found)))
    assert "secret-env" not in strange
    assert "secret-label" not in strange
    assert "secret-user" in strange
    told = str(jsonable(Privacy(people=False).of(found)))
    assert "secret" not in told
