"""The start chooser's data: what was posted → a checked request, and what the page shows → one frozen view.

Pure. Invariants: what a form posts is checked by the same `ResourceRequest` as what a script posts; what is remembered or asked
for in an address is a proposal only: anything that does not exist (any more) is replaced by a default and never shown.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hub.durations import read_runtime_s
from quota.client import Payer
from spawners.profiles import Profile, Profiles
from spawners.resources import InvalidRequest, ResourceRequest
from spawners.session_traits import refused

FIELDS: Final = ("project", "profile", "application", "runtime_s")
_RUNTIMES_S: Final = (900, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 12 * 3600, 24 * 3600, 48 * 3600)


@dataclass(frozen=True, slots=True)
class Choice:
    """What is selected on the page; ids, and "" where nothing can be selected."""

    project: str
    profile: str
    application: str
    runtime_s: int


def options_from_form(form: Mapping[str, Sequence[object]]) -> dict[str, str | int]:
    """Turn the posted form into options; what is missing or odd is passed on as it is, for the request to refuse."""
    options: dict[str, str | int] = {}
    for name in FIELDS:
        texts = [one for one in form.get(name, ()) if isinstance(one, str) and one.strip()]
        if texts:
            options[name] = texts[-1].strip()
    runtime = options.get("runtime_s")
    if isinstance(runtime, str):
        seconds = read_runtime_s(runtime)
        options["runtime_s"] = runtime if seconds is None else seconds
    return options


def read_request(options: Mapping[str, object], profiles: Profiles) -> ResourceRequest | InvalidRequest:
    """Check options as a start does."""
    try:
        return ResourceRequest.from_user_options(options, profiles)
    except InvalidRequest as error:
        return error


def choose(wishes: Sequence[Mapping[str, object]], payers: Sequence[Payer], profiles: Profiles) -> Choice:
    """Select what the first of `wishes` asks for where it exists, else what the next does, else a default."""
    project = _first(wishes, "project", {key for one in payers for key in (one.project_id, one.slug)})
    project = next((one.project_id for one in payers if project in (one.project_id, one.slug)), "")
    if not project and payers:
        project = next((one for one in payers if one.can_start), payers[0]).project_id
    profile_id = _first(wishes, "profile", {one.id for one in profiles})
    profile = profiles.get(profile_id) or next(iter(profiles))
    application = _first(wishes, "application", {one.id for one in profile.applications}) or profile.applications[0].id
    return Choice(project, profile.id, application, _runtime_s(wishes, profile))


def runtimes_s(profile: Profile, chosen_s: int) -> list[int]:
    """The runtimes that the page offers for a profile, the chosen one among them."""
    offered = {one for one in _RUNTIMES_S if one <= profile.longest_runtime_s}
    offered |= {profile.default_runtime_s, profile.longest_runtime_s}
    if 0 < chosen_s <= profile.longest_runtime_s:
        offered.add(chosen_s)
    return sorted(offered)


def fresh_server_name(taken: Sequence[str], idle: Sequence[str], random_hex: str) -> str:
    """A name for another session: an idle one of ours before a new one, so that names do not pile up."""
    ours = sorted(name for name in idle if re.fullmatch(r"s-[0-9a-f]{4}", name))
    if ours:
        return ours[0]
    name = f"s-{random_hex[:4]}"
    return name if name not in taken else f"s-{random_hex[:8]}"


def _first(wishes: Sequence[Mapping[str, object]], field: str, known: set[str]) -> str:
    return next((str(wish[field]) for wish in wishes if str(wish.get(field, "")) in known), "")


def _runtime_s(wishes: Sequence[Mapping[str, object]], profile: Profile) -> int:
    for wish in wishes:
        value = wish.get("runtime_s")
        seconds = value if type(value) is int else read_runtime_s(str(value)) if value is not None else None
        if seconds is not None and seconds > 0:
            return min(seconds, profile.longest_runtime_s)
    return profile.default_runtime_s


def form_reader(profiles: Profiles) -> Callable[[Mapping[str, Sequence[object]]], dict[str, str | int]]:
    """Make the value of `Spawner.options_from_form`: the posted form as checked options, or a refusal that the page shows."""

    def read(form: Mapping[str, Sequence[object]]) -> dict[str, str | int]:
        request = read_request(options_from_form(form), profiles)
        if isinstance(request, InvalidRequest):
            raise refused(f"This start cannot be done: {request}", reason=f"invalid_{request.code}")
        return request.to_user_options()

    return read
