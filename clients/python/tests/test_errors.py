"""The table of errors is the protocol's."""

from __future__ import annotations

import re

import pytest

from ebb import errors
from ebb._retry import with_retry
from support import REPO

ENTRY = re.compile(r"^  (\w+): \{\s*retry: '(\w+)',\s*means:\s*(?:'((?:[^'\\]|\\.)*)'|\"([^\"]*)\")", re.MULTILINE)


def test_codes_retries_and_meanings_are_those_of_the_protocol() -> None:
    text = (REPO / "packages/protocol/src/errors.ts").read_text(encoding="utf-8")
    table = text[text.index("export const ERRORS") : text.index("} as const satisfies")]
    wanted = {
        code: (retry, (single or double).replace("\\'", "'")) for code, retry, single, double in ENTRY.findall(table)
    }
    assert len(wanted) > 30
    found = {
        code: (kind.retry, re.sub(r"\s+", " ", kind.__doc__ or "").strip()) for code, kind in errors.ERRORS.items()
    }
    assert found == wanted


def test_what_no_wait_makes_room_for_is_not_tried_again() -> None:
    tries = []

    def attempt() -> None:
        tries.append(1)
        raise errors.TierFullError("too large", {"neverFits": True})

    with pytest.raises(errors.TierFullError) as caught:
        with_retry(attempt, idempotent=True)
    assert len(tries) == 1
    assert caught.value.retry == "never"
    assert errors.TierFullError("no room now").retry == "safe"


def test_a_code_of_a_newer_node_is_an_internal_error_that_names_it() -> None:
    error = errors.error_of("from_the_future", "words", {"n": 1})
    assert isinstance(error, errors.InternalError)
    assert error.details == {"n": 1, "code": "from_the_future"}
    assert str(error) == "words (internal)"
