"""The golden vectors, which every client passes: read and written byte for byte."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ebb import _frames as frames
from ebb import _messages as messages
from ebb.errors import RequestInvalidError
from support import REPO

VECTORS = json.loads((REPO / "packages/protocol/vectors/frames.json").read_text(encoding="utf-8"))
CALLS: dict[str, messages.Call[Any, Any]] = {
    call.name: call for call in vars(messages).values() if isinstance(call, messages.Call)
}
PUSHES: dict[str, messages.Codec[Any]] = {"revoke": messages.REVOKE, "goingAway": messages.GOING_AWAY}
# Shuffles and files opened by position are spoken by other clients.
NOT_SPOKEN = re.compile(r"(shuffle|map[A-Z]|file[A-Z])")
SPOKEN = [vector for vector in VECTORS["messages"] if not NOT_SPOKEN.match(vector["name"])]
NAMES = {"from": "source", "to": "target"}


def snake(name: str) -> str:
    return NAMES.get(name, re.sub(r"([A-Z])", lambda match: f"_{match[1].lower()}", name))


def codec_of(name: str) -> messages.Codec[Any]:
    op, side = name.split(".")
    return PUSHES[op] if side == "push" else getattr(CALLS[op], side)


def as_json(value: Any) -> Any:
    """As the vectors write it: fields by their names, raw bytes as hex."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        absent = value._field_defaults  # fields that earlier versions of a message do not have
        fields = zip(value._fields, value)
        return {name: as_json(field) for name, field in fields if name not in absent or field != absent[name]}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    return value


def renamed(value: Any, *, maps: bool = True) -> Any:
    if isinstance(value, dict):
        return {(snake(name) if maps else name): renamed(at, maps=name != "metadata") for name, at in value.items()}
    return [renamed(item) for item in value] if isinstance(value, list) else value


def test_ops_are_numbered_as_in_the_protocol() -> None:
    assert VECTORS["protocolVersion"] == messages.PROTOCOL_VERSION
    ops = {name: call.op for name, call in CALLS.items()}
    ops.update(revoke=messages.OP_REVOKE, goingAway=messages.OP_GOING_AWAY)
    assert ops == {name: op for name, op in VECTORS["ops"].items() if not NOT_SPOKEN.match(name)}


@pytest.mark.parametrize("vector", SPOKEN, ids=lambda vector: vector["name"])
def test_message_is_read_and_written_byte_for_byte(vector: dict[str, Any]) -> None:
    codec = codec_of(vector["name"])
    payload = bytes.fromhex(vector["payloadHex"])
    message = codec.decode(payload)
    assert as_json(message) == renamed(vector["message"])
    assert bytes(codec.encode(message)) == payload


@pytest.mark.parametrize("vector", SPOKEN, ids=lambda vector: vector["name"])
def test_message_is_refused_when_a_byte_is_missing_or_left_over(vector: dict[str, Any]) -> None:
    codec = codec_of(vector["name"])
    payload = bytes.fromhex(vector["payloadHex"])
    with pytest.raises(RequestInvalidError):
        codec.decode(payload + b"\0")
    if payload:
        with pytest.raises(RequestInvalidError):
            codec.decode(payload[:-1])


def test_an_error_carries_its_code_its_message_and_its_details() -> None:
    vector = VECTORS["error"]
    payload = bytes.fromhex(vector["payloadHex"])
    error = messages.decode_error(payload)
    assert (error.code, error.message, error.details) == (
        vector["code"],
        vector["message"],
        vector["details"],
    )
    assert error.retry == "safe"
    assert bytes(messages.encode_error(error)) == payload


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["name"])
def test_frame(vector: dict[str, Any]) -> None:
    payload = bytes.fromhex(vector["payloadHex"])
    frame = frames.encode_frame(vector["requestId"], vector["op"], vector["flags"], payload)
    assert frame.hex() == vector["frameHex"]
    assert frames.parse_frame_header(frame) == (
        len(payload),
        vector["requestId"],
        vector["op"],
        vector["flags"],
    )


def test_a_frame_that_is_too_long_is_refused() -> None:
    header = frames.FRAME_HEADER.pack(frames.FRAME_PAYLOAD_BYTES_MAX + 1, 1, 1, 0)
    with pytest.raises(RequestInvalidError):
        frames.parse_frame_header(header)


@pytest.mark.parametrize("value", [-1, 1 << 53])
def test_numbers_beyond_what_javascript_holds_are_not_sent(value: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        messages.EXTEND.request.encode(messages.ExtendRequest(1, value))


def test_text_that_is_not_utf8_is_neither_sent_nor_taken() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        messages.HEAD.request.encode(messages.Place("b", "\ud800"))
    with pytest.raises(RequestInvalidError):
        messages.GOING_AWAY.decode(b"\x01\x00\xff")
