"""Spans as OTLP's protobuf (pure). Each is written once, by itself: a request is a few bytes and all of its spans.

The SDK's encoder makes an object of each attribute, which takes as long as a quarter of what answering takes.
https://protobuf.dev/programming-guides/encoding/ and `opentelemetry/proto/trace/v1/trace.proto`
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

from despina_runtime.telemetry import semconv
from despina_runtime.telemetry.tree import Node

LONGEST_VALUE = 2**14
"""Characters of an attribute."""
MOST_KNOWN, LONGEST_KNOWN = 2048, 128
"""Attributes that are kept as they are written, and their bytes."""
KNOWN: dict[tuple[str, Any], bytes] = {}
PLAIN = (str, int)
"""Types of those: others may not be looked for, such as a cost, or are found as what they equal, as 1.0 is as 1."""
KINDS = {"internal": 1, "server": 2, "client": 3}
ERROR = 2
TIMES = struct.Struct("<BQBQ")
FLAGS = b"\x85\x01" + struct.pack("<I", 0x101)
"""Field 16: the trace is sampled, and it is known of the parent whether it is remote."""
SCOPE = "despina"


def request(resource: Mapping[str, Any], spans: Iterable[bytes]) -> bytes:
    """An `ExportTraceServiceRequest` of spans, each as `span` writes it."""
    of_what = _part(1, b"".join(_attribute(1, name, value) for name, value in resource.items()))
    scope = _part(1, _part(1, SCOPE.encode()))
    schema = _part(3, semconv.SCHEMA_URL.encode())
    return _part(1, of_what + _part(2, scope + b"".join(spans) + schema))


def span(node: Node, trace_id: str) -> bytes:
    """One, as it stands in a request. Raises ValueError or struct.error for what can be none."""
    begin, fromhex = int(node.at * 1e9), bytes.fromhex
    ids = b"\x0a\x10%b\x12\x08%b" % (fromhex(trace_id), fromhex(node.span_id))
    parent = b"\x22\x08%b" % fromhex(node.parent_id) if node.parent_id else b""
    told = _part(5, node.name[:LONGEST_VALUE].encode(errors="replace")) + bytes((6 << 3, KINDS[node.kind]))
    times = TIMES.pack(7 << 3 | 1, begin, 8 << 3 | 1, begin + int(node.seconds * 1e9))
    facts = [(KNOWN.get(fact) if type(fact[1]) in PLAIN else None) or _fact(*fact) for fact in node.attributes.items()]
    if node.inputs is not None:
        facts.append(_text(INPUTS, _json(node.inputs)))
    if node.outputs is not None:
        facts.append(_text(OUTPUTS, _json(node.outputs)))
    status = _part(15, _part(2, node.error.encode(errors="replace")) + bytes((3 << 3, ERROR))) if node.error else b""
    return _part(2, b"".join((ids, parent, told, times, *facts, status, FLAGS)))


def _json(value: Any) -> bytes:
    found = to_json(value, inf_nan_mode="null")
    return found if len(found) <= LONGEST_VALUE else found.decode()[:LONGEST_VALUE].encode()


def _fact(name: str, value: Any) -> bytes:
    """Nothing for one that says nothing. Most are the same in each trace, but for those that never are."""
    if value is None or value == "":
        return b""
    if name == semconv.PREDICTION:
        return _text(_key(name), value.encode())
    found = _attribute(9, name, value)
    if type(value) in PLAIN and len(found) <= LONGEST_KNOWN:
        if len(KNOWN) >= MOST_KNOWN:
            KNOWN.clear()
        KNOWN[name, value] = found
    return found


def _attribute(field: int, name: str, value: Any) -> bytes:
    return _part(field, _key(name) + _part(2, _value(value)))


@lru_cache(1024)
def _key(name: str) -> bytes:
    return _part(1, name.encode())


def _value(value: Any) -> bytes:
    """An `AnyValue`: texts, whole numbers, others, and several by their names; what is none of these is written as
    text."""
    if type(value) is dict:
        return _part(6, b"".join(_attribute(1, name, one) for name, one in value.items()))
    if type(value) is int and 0 <= value < 2**63:
        return b"\x18" + _varint(value)
    if type(value) is float:
        return b"\x21" + struct.pack("<d", value)
    return _part(1, str(value)[:LONGEST_VALUE].encode(errors="replace"))


def _text(key: bytes, text: bytes) -> bytes:
    """An attribute of a span that is a text, as `_attribute` would write it, in one go."""
    size = _size(len(text))
    inner = len(size) + len(text) + 1
    value = _size(inner)
    whole = _size(len(key) + 1 + len(value) + inner)
    return b"\x4a%b%b\x12%b\x0a%b%b" % (whole, key, value, size, text)


def _part(field: int, content: bytes) -> bytes:
    """A field with its length, and what is in it."""
    return b"%c%b%b" % (field << 3 | 2, _size(len(content)), content)


def _size(number: int) -> bytes:
    return SIZES[number] if number < len(SIZES) else _varint(number)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


SIZES = [_varint(number) for number in range(1024)]
INPUTS, OUTPUTS = _key(semconv.INPUTS), _key(semconv.OUTPUTS)
