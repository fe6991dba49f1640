"""What can be posted to start a server: only a whole, right request passes."""

from collections.abc import Mapping

import pytest

from spawners.profiles import Application, Profiles
from spawners.resources import Fault, InvalidRequest, ResourceRequest
from tests.unit.spawners.test_profiles import profile

CATALOGUE = Profiles(
    (profile(), profile(id="cpu", gpus=0, applications=(Application("lab", "Lab"), Application("code", "Code"))))
)
GOOD: Mapping[str, object] = {"project": "p-1", "profile": "gpu1", "runtime_s": 3600}


def fault_of(options: Mapping[str, object]) -> tuple[str, Fault]:
    with pytest.raises(InvalidRequest) as caught:
        ResourceRequest.from_user_options(options, CATALOGUE)
    assert caught.value.reason.endswith(".")
    return caught.value.field, caught.value.code


def test_a_whole_request_is_read_with_the_profiles_first_application() -> None:
    request = ResourceRequest.from_user_options(GOOD, CATALOGUE)
    assert request == ResourceRequest("p-1", "gpu1", "lab", 3600)


def test_a_request_survives_being_saved_as_options() -> None:
    request = ResourceRequest("p-1", "cpu", "code", 60)
    assert ResourceRequest.from_user_options(request.to_user_options(), CATALOGUE) == request


@pytest.mark.parametrize("runtime_s", [1, 43_200])
def test_the_shortest_and_the_longest_runtime_are_accepted(runtime_s: int) -> None:
    assert ResourceRequest.from_user_options({**GOOD, "runtime_s": runtime_s}, CATALOGUE).runtime_s == runtime_s


@pytest.mark.parametrize("missing", ["project", "profile", "runtime_s"])
def test_each_required_option_has_to_be_there(missing: str) -> None:
    assert fault_of({name: value for name, value in GOOD.items() if name != missing}) == (missing, Fault.MISSING)


@pytest.mark.parametrize("key", ["image", "cmd", "environment", "hold_id", "Project", "runtime", "partition"])
def test_an_unknown_option_is_refused(key: str) -> None:
    assert fault_of({**GOOD, key: "x"}) == (key, Fault.UNKNOWN_KEY)


def test_an_unknown_option_is_shown_short_and_printable() -> None:
    field, _ = fault_of({**GOOD, "\x1b[31m\n" + "é" * 500: 1})
    assert field.isascii()
    assert field.isprintable()
    assert len(field) < 200


@pytest.mark.parametrize(
    ("runtime_s", "fault"),
    [
        (True, Fault.WRONG_TYPE),
        ("3600", Fault.WRONG_TYPE),
        ("１", Fault.WRONG_TYPE),
        (3600.0, Fault.WRONG_TYPE),
        (float("nan"), Fault.WRONG_TYPE),
        (float("inf"), Fault.WRONG_TYPE),
        (None, Fault.WRONG_TYPE),
        ([3600], Fault.WRONG_TYPE),
        ({}, Fault.WRONG_TYPE),
        (0, Fault.TOO_SHORT),
        (-1, Fault.TOO_SHORT),
        (-(10**30), Fault.TOO_SHORT),
        (43_201, Fault.TOO_LONG),
        (10**30, Fault.TOO_LONG),
    ],
)
def test_a_runtime_is_a_whole_number_of_seconds_within_the_profile(runtime_s: object, fault: Fault) -> None:
    assert fault_of({**GOOD, "runtime_s": runtime_s}) == ("runtime_s", fault)


@pytest.mark.parametrize("field", ["project", "profile", "application"])
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (7, Fault.WRONG_TYPE),
        (True, Fault.WRONG_TYPE),
        (None, Fault.WRONG_TYPE),
        (["gpu1"], Fault.WRONG_TYPE),
        ("", Fault.MALFORMED),
        ("a" * 65, Fault.MALFORMED),
        ("../etc", Fault.MALFORMED),
        ("gpu1\n", Fault.MALFORMED),
        ("gpu１", Fault.MALFORMED),
        ("gpu1\x00", Fault.MALFORMED),
        ("-rf", Fault.MALFORMED),
    ],
)
def test_a_name_is_plain_text(field: str, value: object, fault: Fault) -> None:
    assert fault_of({**GOOD, field: value}) == (field, fault)


def test_only_offered_profiles_and_their_own_applications_start() -> None:
    assert fault_of({**GOOD, "profile": "gpu9"}) == ("profile", Fault.UNKNOWN_PROFILE)
    assert fault_of({**GOOD, "application": "code"}) == ("application", Fault.UNKNOWN_APPLICATION)
