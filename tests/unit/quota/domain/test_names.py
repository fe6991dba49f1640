"""Names for people from elsewhere: nobody gets another's, nobody is taken for the portal's own people."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.domain.names import candidates, looks_like, stem_of

ISSUER = "https://login.example.org"


@pytest.mark.parametrize(
    ("preferred", "stem"),
    [
        ("ada", "ada"),
        ("Ada Lovelace", "ada-lovelace"),
        ("ada@example.org", "ada"),
        ("ＡＤＡ", "ada"),
        ("José Ångström", "jose-angstrom"),
        ("张三", "researcher"),
        ("", "researcher"),
        ("0000-0002-1825-0097", "researcher"),
        ("a" * 80, "a" * 20),
        ("../../etc/passwd", "etc-passwd"),
        ("ada\r\nX-Evil: 1", "ada-x-evil-1"),
    ],
)
def test_a_stem_is_what_can_be_read_safely(preferred: str, stem: str) -> None:
    assert stem_of(preferred) == stem


@pytest.mark.parametrize(
    "name",
    ["admin", "ADMIN", "аdmin".replace("а", "a"), "adm1n", "4dmin", "r00t", "ro-ot", "ａｄｍｉｎ", "adrnin", "qu0ta"],
)
def test_nobody_is_called_like_the_portals_own(name: str) -> None:
    assert stem_of(name) == "researcher"


def test_letters_of_other_scripts_make_no_second_ada() -> None:
    latin, cyrillic = (next(candidates(name, ISSUER, "1")) for name in ("ada", "аdа"))
    assert latin != cyrillic
    assert cyrillic.isascii()


@given(st.text(), st.text(), st.text())
def test_every_identity_gets_a_valid_name(preferred: str, issuer: str, subject: str) -> None:
    names = list(candidates(preferred, issuer, subject))
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{0,46}", name) for name in names)
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(names))
    assert looks_like(names[0]).isascii()


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_two_identities_never_share_the_longest_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    same = list(candidates("ada", *one))[-1] == list(candidates("ada", *other))[-1]
    assert same == (one == other)
