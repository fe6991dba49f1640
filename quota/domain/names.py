"""Hub user names for people who sign in from elsewhere: what they call themselves, and a tail that only their identity gives.

Invariants: two identities never get one name (the tail is a hash of issuer and subject, lengthened on a clash); a name is made of
[a-z0-9-] only, so that case, full-width forms and letters that look like others cannot make a second "ada"; nobody is called
what the portal's own people or routes are called. A name is given once: later changes at the issuer do not move it.
Source: Unicode TR 39 (confusables), here met by allowing ASCII only and comparing look-alike digits.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

SHORTEST_TAIL: Final = 4
LONGEST_TAIL: Final = 26
_LONGEST_STEM: Final = 20
_FALLBACK: Final = "researcher"
# Crockford's alphabet: no i, l, o, u, so that a tail that is read aloud or typed is not mistaken.
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_LOOK_ALIKES: Final = str.maketrans(
    {"0": "o", "1": "l", "i": "l", "5": "s", "3": "e", "4": "a", "7": "t", "8": "b", "-": ""}
)
_TAKEN: Final = (  # noqa: SIM905  (one text reads better than forty lines)
    "admin administrator root system operator operators support staff moderator owner helpdesk security security-team "
    "commons compute-commons programme portal hub jupyterhub quota gateway launcher service services api null none nobody "
    "anonymous guest everyone all me self user users slurm postgres docker reviewer decider auditor chair"
).split()


def candidates(preferred: str, issuer: str, subject: str) -> Iterator[str]:
    """Names for the identity, the best first; each has a longer tail, so that one is free in the end."""
    stem = stem_of(preferred)
    digest = hashlib.sha256(json.dumps([issuer, subject]).encode()).digest()
    number = int.from_bytes(digest, "big")
    tail = "".join(_ALPHABET[number >> shift & 31] for shift in range(0, 5 * LONGEST_TAIL, 5))
    for length in (SHORTEST_TAIL, 8, 16, LONGEST_TAIL):
        yield f"{stem}-{tail[:length]}"


def stem_of(preferred: str) -> str:
    """What is left of a name that somebody chose freely: at most 20 of [a-z0-9-], beginning with a letter, and no reserved word."""
    plain = unicodedata.normalize("NFKD", preferred.split("@")[0]).encode("ascii", "ignore").decode().lower()
    whole = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    stem = whole.lstrip("0123456789-")[:_LONGEST_STEM].strip("-")
    return _FALLBACK if not stem or {looks_like(whole), looks_like(stem)} & _RESERVED else stem


def looks_like(name: str) -> str:
    """The same text for names that a reader would take for each other."""
    return name.translate(_LOOK_ALIKES).replace("rn", "m").replace("vv", "w")


_RESERVED: Final = frozenset(looks_like(name) for name in _TAKEN)
