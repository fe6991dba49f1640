"""What one start asks for: project, profile, application and runtime, checked against the catalogue.

Anyone who may start a server can post arbitrary `user_options` to the hub's API, so nothing here trusts the form.
Invariant: a `ResourceRequest` made here names an existing profile and one of its applications, and its runtime lies within
the profile's longest. It carries ids and one integer only: never a path, an image, a command or an environment variable.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final, Self

from spawners.profiles import Profile, Profiles

SHORTEST_RUNTIME_S: Final = 1
KEYS: Final = ("project", "profile", "application", "runtime_s")

# Identifiers only: plain ASCII letters, digits and "-", "_"; wide enough for a UUID or a slug.
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Fault(StrEnum):
    """Why a request is refused."""

    UNKNOWN_KEY = "unknown_key"
    MISSING = "missing"
    WRONG_TYPE = "wrong_type"
    MALFORMED = "malformed"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    UNKNOWN_PROFILE = "unknown_profile"
    UNKNOWN_APPLICATION = "unknown_application"


class InvalidRequest(ValueError):
    """The options cannot be a request: `field` is the option, `reason` a sentence for its sender."""

    def __init__(self, field: str, code: Fault, reason: str) -> None:
        self.field = field
        self.code = code
        self.reason = reason
        super().__init__(f"{field}: {reason}")


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """A checked request; `profile` and `application` are ids."""

    project: str
    profile: str
    application: str
    runtime_s: int

    @classmethod
    def from_user_options(cls, options: Mapping[str, object], profiles: Profiles) -> Self:
        """Check posted options; raises InvalidRequest on the first thing that is wrong and corrects nothing."""
        for key in options:
            if key not in KEYS:
                raise InvalidRequest(_shown(key), Fault.UNKNOWN_KEY, f"is no option; known are {', '.join(KEYS)}.")
        project = _identifier(options, "project")
        profile = profiles.get(_identifier(options, "profile"))
        if profile is None:
            known = ", ".join(one.id for one in profiles)
            raise InvalidRequest("profile", Fault.UNKNOWN_PROFILE, f"is not offered here; choose one of {known}.")
        return cls(project, profile.id, _application(options, profile), _runtime_s(options, profile))

    def to_user_options(self) -> dict[str, str | int]:
        """Write the request as the options that `from_user_options` reads."""
        return asdict(self)


def _identifier(options: Mapping[str, object], field: str) -> str:
    value = _required(options, field)
    if not isinstance(value, str):
        raise InvalidRequest(field, Fault.WRONG_TYPE, "must be text.")
    if not _IDENTIFIER.fullmatch(value):
        raise InvalidRequest(field, Fault.MALFORMED, "must be 1 to 64 letters, digits, hyphens or underscores.")
    return value


def _application(options: Mapping[str, object], profile: Profile) -> str:
    if "application" not in options:
        return profile.applications[0].id
    chosen = profile.application(_identifier(options, "application"))
    if chosen is None:
        known = ", ".join(one.id for one in profile.applications)
        raise InvalidRequest(
            "application", Fault.UNKNOWN_APPLICATION, f"is not offered by this profile; choose one of {known}."
        )
    return chosen.id


def _runtime_s(options: Mapping[str, object], profile: Profile) -> int:
    value = _required(options, "runtime_s")
    # type() and not isinstance(): True is an int to Python, and "1" or 3600.0 would hide a sender's mistake.
    if type(value) is not int:
        raise InvalidRequest("runtime_s", Fault.WRONG_TYPE, "must be a whole number of seconds.")
    if value < SHORTEST_RUNTIME_S:
        raise InvalidRequest("runtime_s", Fault.TOO_SHORT, f"must be at least {SHORTEST_RUNTIME_S} second.")
    if value > profile.longest_runtime_s:
        raise InvalidRequest("runtime_s", Fault.TOO_LONG, f"must be at most {profile.longest_runtime_s} seconds.")
    return value


def _required(options: Mapping[str, object], field: str) -> object:
    if field not in options:
        raise InvalidRequest(field, Fault.MISSING, "is required.")
    return options[field]


def _shown(key: object) -> str:
    """A posted key is foreign text: show a short printable form of it only."""
    return ascii(str(key)[:40])[1:-1]
