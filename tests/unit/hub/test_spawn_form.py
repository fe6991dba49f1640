"""The chooser's data: what was posted is checked, what is remembered only proposes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from jupyterhub.spawner import SpawnException

from hub.spawn_form import Choice, choose, form_reader, fresh_server_name, options_from_form, read_request, runtimes_s
from quota.client import Payer
from spawners.profiles import Profiles
from spawners.resources import InvalidRequest, ResourceRequest

FORM = {"project": ["p1"], "profile": ["gpu1"], "application": ["lab"], "runtime_s": ["3600"]}
NOTHING = {"awarded": 0, "charged": 0, "held": 0, "available": 0}


def payer(project_id: str, can_start: bool = True) -> Payer:
    return Payer(project_id, f"slug-{project_id}", project_id, "pi", NOTHING, NOTHING, "", can_start, None)


def test_a_posted_form_becomes_a_request(catalogue: Profiles) -> None:
    request = read_request(options_from_form(FORM), catalogue)
    assert request == ResourceRequest("p1", "gpu1", "lab", 3600)


def test_the_button_for_a_shorter_runtime_wins_over_the_list() -> None:
    assert options_from_form({**FORM, "runtime_s": ["14400", "4800"]})["runtime_s"] == 4800


def test_only_the_forms_own_fields_are_read() -> None:
    assert set(options_from_form({**FORM, "cmd": ["sh"], "_xsrf": ["x"], "file": [{"body": b""}]})) == set(FORM)


@pytest.mark.parametrize(
    "change",
    [
        {"project": []}, {"project": ["../p"]}, {"profile": ["a100"]}, {"profile": [""]}, {"application": ["desktop"]},
        {"runtime_s": ["-1"]}, {"runtime_s": ["0"]}, {"runtime_s": ["1e3"]}, {"runtime_s": ["43201"]}, {"runtime_s": []},
        {"runtime_s": ["１２"]}, {"project": ["p\x00"]}, {"project": [b"p1"]},
    ],
)  # fmt: skip
def test_a_form_that_makes_no_sense_is_refused_with_its_reason(
    catalogue: Profiles, change: Mapping[str, list[object]]
) -> None:
    with pytest.raises(SpawnException) as refusal:
        form_reader(catalogue)({**FORM, **change})
    field = next(iter(change))
    assert field in refusal.value.message
    assert refusal.value.status_code == 400


def test_a_form_of_nonsense_types_is_no_accident(catalogue: Profiles) -> None:
    assert isinstance(read_request({"project": ["p1"], "runtime_s": {}}, catalogue), InvalidRequest)


def test_what_is_asked_for_comes_before_what_is_remembered(catalogue: Profiles) -> None:
    remembered = {"project": "p1", "profile": "gpu2", "application": "desktop", "runtime_s": 600}
    asked = {"project": "slug-p2"}
    chosen = choose([asked, remembered], [payer("p1"), payer("p2")], catalogue)
    assert chosen == Choice("p2", "gpu2", "desktop", 600)


@pytest.mark.parametrize(
    "remembered",
    [{}, {"project": "gone", "profile": "gone", "application": "gone", "runtime_s": -5}, {"project": ["x"], "profile": None, "runtime_s": "soon"}],
)  # fmt: skip
def test_what_does_not_exist_any_more_is_replaced_by_a_default(
    catalogue: Profiles, remembered: dict[str, object]
) -> None:
    assert choose([remembered], [payer("p1", can_start=False), payer("p2")], catalogue) == Choice(
        "p2", "cpu", "lab", 7200
    )


def test_a_runtime_longer_than_the_profiles_is_cut(catalogue: Profiles) -> None:
    assert choose([{"profile": "cpu", "runtime_s": 10**6}], [payer("p1")], catalogue).runtime_s == 28_800


def test_without_a_project_nothing_pays(catalogue: Profiles) -> None:
    assert choose([], [], catalogue).project == ""


def test_the_chosen_runtime_is_among_those_offered(catalogue: Profiles) -> None:
    gpu = catalogue.get("gpu1")
    assert gpu is not None
    offered = runtimes_s(gpu, 4321)
    assert offered == sorted(set(offered))
    assert 4321 in offered
    assert max(offered) == gpu.longest_runtime_s


def test_an_idle_name_of_ours_is_used_again_before_a_new_one() -> None:
    assert fresh_server_name(["mine", "s-00ff"], ["mine", "s-00ff"], "abcdef0123") == "s-00ff"
    assert fresh_server_name(["mine"], ["mine"], "abcdef0123") == "s-abcd"
    assert fresh_server_name(["s-abcd"], [], "abcdef0123") == "s-abcdef01"
