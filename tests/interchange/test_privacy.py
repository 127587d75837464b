"""What is told to strangers says nothing that it should not, however deep it stands."""

from __future__ import annotations

from msgspec.structs import replace

from msb_cache.eventstore import events as ev
from msb_cache.interchange.privacy import LEFT_OUT, Privacy
from msb_cache.queries.as_of import Hold
from msb_cache.shapes import jsonable
from tests.cli.support import stored
from tests.logs import PYTHON, digest, layer, manifest_added, pulled

CONFIG = ev.ImageConfig(env=("TOKEN=secret-1",), labels={"owner": "secret-2"}, cmd=("serve",))


def test_values_of_environments_and_labels_are_left_out() -> None:
    event = stored(replace(manifest_added([layer(1)]), config=CONFIG), digest(1))
    told = Privacy().of([event])[0]
    assert "secret" not in str(jsonable(told))
    assert told.data.config == ev.ImageConfig(labels={"owner": LEFT_OUT}, cmd=("serve",))
    assert Privacy(config=True).of(event) is event
    hold = Hold("sandbox:a", digest(1), 0, None, labels={"team": "secret-3"})
    assert Privacy().of({"holds": (hold,)})["holds"][0].labels == {"team": LEFT_OUT}


def test_people_are_left_out_on_request() -> None:
    event = stored(pulled(digest(1)), PYTHON)
    named = replace(event, actor=replace(event.actor, reason="because", login="bob", claimed={"for": "eve"}))
    assert Privacy().of(named).actor == named.actor
    actor = Privacy(people=False).of(named).actor
    assert (actor.program, actor.user, actor.host, actor.reason, actor.login, actor.claimed) == (
        *(named.actor.program, "", ""),
        *(None, None, None),
    )
