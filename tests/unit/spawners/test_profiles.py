"""Profiles: units have to be written, inconsistent profiles do not exist."""

import pytest

from spawners.profiles import Application, Backend, Profile, Profiles, duration_s, size_bytes

LAB = Application("lab", "JupyterLab")


def profile(**changes: object) -> Profile:
    values: dict[str, object] = {
        "id": "gpu1",
        "title": "1 simulated GPU",
        "backend": Backend.LOCAL,
        "hardware": "simulated-gpu",
        "cloud": "this-machine",
        "applications": (LAB,),
        "gpus": 1,
        "cpus": 1,
        "memory_bytes": 2**31,
        "default_runtime_s": 7200,
        "longest_runtime_s": 43_200,
    }
    return Profile(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2 h", 7200), ("30 min", 1800), ("1 h 30 min", 5400), ("45 s", 45), ("2 d", 172_800)],
)
def test_a_duration_is_read_in_its_unit(text: str, seconds: int) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["2", "2h", "h", "", " 2 h", "-2 h", "1.5 h", "２ h", "2 hours", "2 h 3", 7200, True, None]
)
def test_a_duration_without_its_unit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="unit"):
        duration_s(text)


def test_a_size_is_read_in_binary_units() -> None:
    assert [size_bytes(text) for text in ("512 MiB", "4 GiB", "1 TiB")] == [2**29, 2**32, 2**40]


@pytest.mark.parametrize("text", ["4", "4 GB", "4GiB", "-4 GiB", "４ GiB", 4, None])
def test_a_size_without_its_unit_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="unit"):
        size_bytes(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus": -1},
        {"cpus": 0},
        {"memory_bytes": 0},
        {"default_runtime_s": 0},
        {"default_runtime_s": 43_201},
        {"applications": ()},
        {"applications": (LAB, LAB)},
    ],
)
def test_an_inconsistent_profile_cannot_exist(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"profile|runtime"):
        profile(**changes)


def test_the_catalogue_keeps_its_order_and_finds_by_id() -> None:
    catalogue = Profiles((profile(id="cpu", gpus=0), profile(id="gpu1")))
    assert [one.id for one in catalogue] == ["cpu", "gpu1"]
    assert len(catalogue) == 2
    found = catalogue.get("cpu")
    assert found is not None
    assert found.gpus == 0
    assert catalogue.get("CPU") is None


def test_a_table_becomes_the_profile_it_describes() -> None:
    table = {
        "title": "1 simulated GPU",
        "backend": "local",
        "hardware": "simulated-gpu",
        "cloud": "this-machine",
        "applications": [{"id": "lab", "title": "JupyterLab"}],
        "gpus": 1,
        "cpus": 1,
        "memory": "2 GiB",
        "default_runtime": "2 h",
        "longest_runtime": "12 h",
    }
    assert Profiles.from_tables({"gpu1": table}).get("gpu1") == profile()
