"""What a request is told about an error: a status, a sentence, and nothing that is nobody's business."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from msb_cache import diagnostics, errors
from msb_cache.web.problems import RefusedError, answering, encoded, problem, refusal

CASES: list[tuple[Exception, int, str, str]] = [
    (errors.ImageNotFoundError("image not found: x"), 404, "image-not-found", "image not found: x"),
    (errors.OperationNotFoundError("none"), 404, "operation-not-found", "none"),
    (errors.InvalidReferenceError("bad"), 400, "invalid-reference", "bad"),
    (errors.InvalidConfigError("bad"), 400, "invalid-config", "bad"),
    (errors.BusyError("it waits"), 503, "busy", "it waits"),
    (errors.ImageInUseError("held"), 409, "image-in-use", "held"),
    (errors.FleetError("it is away", temporary=True), 503, "fleet", "it is away"),
    (errors.FleetError("it may not be asked"), 500, "fleet", "it may not"),
    (errors.CorruptLogError("the log is damaged"), 500, "corrupt-log", "the log is damaged"),
    (HTTPException(404), 404, "not-found", "there is nothing at this path"),
    (HTTPException(405, headers={"Allow": "GET"}), 405, "method-not-allowed", "only reads"),
    (TimeoutError(), 503, "busy", "took too long"),
    (PermissionError(13, "Permission denied", "/x"), 500, "system-error", "Permission denied"),
    (ZeroDivisionError("a secret"), 500, "internal-error", "made a mistake"),
]


@pytest.mark.parametrize(("error", "status", "code", "words"), CASES)
def test_an_error_is_told_in_a_sentence(error: Exception, status: int, code: str, words: str) -> None:
    answer = problem({"headers": []}, error)
    told = json.loads(bytes(answer.body))
    assert answer.media_type == "application/problem+json"
    assert answer.status_code == told["status"] == status
    assert told["code"] == code
    assert words in told["detail"]
    assert told.keys() == {"type", "title", "status", "detail", "code"}
    assert "secret" not in str(told)
    assert ("retry-after" in answer.headers) is (status == 503)


def test_a_browser_gets_the_sentence_alone() -> None:
    headers = [(b"accept", b"text/html,application/xhtml+xml")]
    answer = problem({"headers": headers}, errors.ImageNotFoundError("image not found: <script>"))
    assert (answer.status_code, answer.media_type) == (404, "text/plain")
    assert answer.body == b"image not found: <script>\n"


def test_what_nobody_expected_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    monkeypatch.setattr(diagnostics, "warning", lambda event, **fields: said.append((event, fields)))
    refusal(ZeroDivisionError("by zero"))
    assert said == [("request failed", {"error": "ZeroDivisionError", "said": "by zero"})]


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    async def endpoint(request: Request) -> Any:
        await asyncio.sleep(60)

    async def ask() -> Any:
        return await answering(endpoint, seconds=0.01)(Request({"type": "http", "headers": []}))

    assert asyncio.run(ask()).status_code == 503


def test_json_has_any_text() -> None:
    text = "\udcff\x00\u2028</script>\U0001f600\ud800"
    assert json.loads(encoded({text: text})) == {text: text}
    with pytest.raises(ValueError, match="JSON"):
        encoded(float("nan"))


def test_a_refusal_stays_what_it_is() -> None:
    error = RefusedError(404, "no", "code")  # type: ignore[arg-type]
    assert refusal(error) is error
