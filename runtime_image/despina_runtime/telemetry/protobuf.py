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
LONGEST_KNOWN = 64
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
    facts = [_fact(name, value) for name, value in node.attributes.items() if value is not None and value != ""]
    facts += [_attribute(9, name, _json(value)) for name, value in _words(node) if value is not None]
    status = _part(15, _part(2, node.error.encode(errors="replace")) + bytes((3 << 3, ERROR))) if node.error else b""
    return _part(2, b"".join((ids, parent, told, times, *facts, status, FLAGS)))


def _words(node: Node) -> Iterable[tuple[str, Any]]:
    return (semconv.INPUTS, node.inputs), (semconv.OUTPUTS, node.outputs)


def _json(value: Any) -> str:
    return to_json(value, inf_nan_mode="null").decode()


def _fact(name: str, value: Any) -> bytes:
    """Most are the same in each trace."""
    is_short = type(value) is int or (type(value) is str and len(value) <= LONGEST_KNOWN)
    return _known(name, value) if is_short else _attribute(9, name, value)


@lru_cache(2048, typed=True)
def _known(name: str, value: str | int) -> bytes:
    return _attribute(9, name, value)


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


def _part(field: int, content: bytes) -> bytes:
    """A field with its length, and what is in it."""
    size = len(content)
    return (bytes((field << 3 | 2, size)) if size < 128 else bytes((field << 3 | 2,)) + _varint(size)) + content


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
