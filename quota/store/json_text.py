"""JSON as the ledger stores and hashes it: written by orjson where it writes what `json` would, byte for byte, by `json` elsewhere.

Invariant: equal values give equal texts, today and with every version since the first: hash chains and fingerprints are made over them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import orjson

_SHORT: Final = 1_000  # characters of a text that is kept parsed
_SORTED: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_FLAT: Final = frozenset({str, int, bool, type(None)})
_PLAIN: Final = json.JSONEncoder(separators=(",", ":"))


def dump(value: Mapping[str, object]) -> str:
    """An object as it is stored: keys in a fixed order, no spaces, characters as they are."""
    if not value:
        return "{}"
    # Texts, integers, booleans and None only: floats are written differently by the two.
    if type(value) is dict and _FLAT.issuperset(map(type, value.values())):
        try:
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
        except TypeError:  # an integer beyond 64 bits, half a surrogate
            pass
    return _SORTED.encode(value)


def dump_rows(rows: Sequence[Sequence[Any]]) -> bytes:
    """Rows of texts, integers, booleans and None as hash chains are made over them: ASCII, everything else escaped."""
    try:
        text = orjson.dumps(rows)
    except TypeError:
        return _PLAIN.encode(rows).encode()
    # `json` escapes DEL too, which is ASCII.
    return text if text.isascii() and b"\x7f" not in text else _PLAIN.encode(rows).encode()


def load(text: str) -> dict[str, Any]:
    """The object in a stored text. Short equal texts are parsed once; each caller gets a mapping of its own."""
    return dict(_loaded(text)) if len(text) < _SHORT else dict(json.loads(text))


@lru_cache(maxsize=4_096)
def _loaded(text: str) -> Any:
    return json.loads(text)  # orjson reads an integer beyond 64 bits as a float
