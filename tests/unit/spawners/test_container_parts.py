"""Small parts of the container backend: settings, packet rules, session files, phrases, layers, instants, owners."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from spawners.container_engine import Layers, stop_word
from spawners.container_settings import ContainersTable
from spawners.engine_calls import unframed
from spawners.engine_sessions import instant_ms
from spawners.home_keeper import Owner, owner_of
from spawners.phrases import PHRASES, instant, say
from spawners.session_files import SessionFile, SessionFiles, SessionFileUnreadable
from spawners.session_firewall import render

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "image", ["debian", "debian:12", "debian:latest", f"debian:12@{DIGEST[:-1]}", "", f"A@{DIGEST}", f" {DIGEST}"]
)
def test_an_image_without_its_digest_is_refused(image: str) -> None:
    with pytest.raises(ValidationError, match="digest"):
        ContainersTable.model_validate({"images": {"lab": {"image": image}}})


@pytest.mark.parametrize("image", [DIGEST, f"registry.example:5000/a/b@{DIGEST}"])
def test_an_image_by_digest_is_taken(image: str) -> None:
    assert ContainersTable.model_validate({"images": {"lab": {"image": image}}}).allowed_images == {image}


def test_a_program_for_homes_is_named_or_not_used() -> None:
    with pytest.raises(ValidationError):
        ContainersTable.model_validate({"homes": {"kind": "command"}})
    with pytest.raises(ValidationError):
        ContainersTable.model_validate({"homes": {"kind": "loop", "command": "/bin/true"}})


def test_the_sockets_lie_in_the_data_folder_unless_the_host_runs_them() -> None:
    table = ContainersTable.model_validate({"helper": "/run/x.sock"})
    assert table.helper_socket(Path("/data")) == Path("/run/x.sock")
    assert table.keeper_socket(Path("/data")) == Path("/data/run/homes.sock")


def test_the_packet_rules_name_the_ports_and_users_once_and_in_order() -> None:
    rules = render([8090, 8081, 8081], [990, 0])
    assert rules.count("tcp dport { 8081, 8090 }") == 2
    assert "meta skuid != { 0, 990 }" in rules
    assert rules.index("delete table inet cc_sessions") < rules.index("chain pre")


@pytest.mark.parametrize(("ports", "users"), [([], [0]), ([0], [0]), ([70_000], [0]), ([80], []), ([80], [-1])])
def test_packet_rules_without_sense_are_not_made(ports: list[int], users: list[int]) -> None:
    with pytest.raises(ValueError):
        render(ports, users)


def test_a_session_file_survives_and_forgets_nothing(tmp_path: Path) -> None:
    files = SessionFiles(tmp_path / "state")
    assert files.read("h1") == SessionFile("h1")
    file = SessionFile("h1", 5_000, "idle", ((1, 2), (3, None)), True)
    files.write(file)
    assert SessionFiles(tmp_path / "state").read("h1") == file
    files.remove("h1")
    files.remove("h1")
    assert files.read("h1") == SessionFile("h1")


BROKEN = [
    "",
    "{}",
    "[]",
    '{"hold_id":"h2","deadline_ms":1,"end_reason":"","pauses":[]}',
    '{"hold_id":"h1","deadline_ms":"1","end_reason":"","pauses":[]}',
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_session_file_is_an_error_and_not_no_deadline(tmp_path: Path, content: str) -> None:
    (tmp_path / "h1.json").write_text(content)
    with pytest.raises(SessionFileUnreadable):
        SessionFiles(tmp_path).read("h1")


def test_a_pause_moves_the_deadline_and_ends_nothing_while_it_lasts() -> None:
    file = SessionFile("h1", deadline_ms=10_000)
    assert file.due_ms(0) == 10_000
    paused = file.paused(2_000).paused(2_000)
    assert paused.due_ms(50_000) is None
    assert paused.paused_ms(5_000) == 3_000
    resumed = paused.resumed(6_000).resumed(7_000)
    assert resumed.due_ms(6_000) == 14_000
    assert resumed.paused(2_000) == resumed  # told again after a restart
    assert file.resumed(1) == file


def test_each_phrase_has_both_languages_with_the_same_parameters() -> None:
    for code, texts in PHRASES.items():
        assert set(texts) == {"en", "zh"}, code
        fields = [{name for _, name, _, _ in string.Formatter().parse(text) if name} for text in texts.values()]
        assert fields[0] == fields[1], code


def test_a_language_that_is_not_spoken_is_english() -> None:
    assert say("fr", "devices") == say("en", "devices") == "Choosing GPUs"
    assert instant(1_764_057_600_000) == "2025-11-25 08:00"


def test_layers_are_counted_as_they_come() -> None:
    layers = Layers()
    events: list[dict[str, Any]] = [
        {"status": "Pulling from library/x", "id": "sha256:1"},
        {"status": "Pulling fs layer", "id": "a"},
        {"status": "Already exists", "id": "b"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 25, "total": 100}},
        {"status": "Status: ok"},
    ]
    for event in events:
        layers.take(event)
    assert layers.figures == {"done": 1, "total": 2, "percent": 25}
    layers.take({"status": "Download complete", "id": "a"})
    layers.take({"status": "Pull complete", "id": "a"})
    assert layers.figures == {"done": 2, "total": 2, "percent": 100}


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("", None),
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T00:00:01.5Z", 1500),
        ("1970-01-01T00:00:01.123456789Z", 1123),
    ],
)
def test_the_engines_instants_are_cut_to_milliseconds(text: str, ms: int | None) -> None:
    assert instant_ms(text) == ms


def test_a_framed_log_reads_as_text_even_cut_off() -> None:
    assert unframed(b"\x01\0\0\0\0\0\0\x03abc\x02\0\0\0\0\0\0\x09de") == "abcde"


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("cc-home-cc-20001", Owner(20_001, 20_001, 0o700)),
        ("cc-project-p1", Owner(0, 20_000, 0o2770)),
        ("cc-home-cc-1000", None),
        ("cc-home-cc-99999", None),
        ("cc-home-root", None),
        ("cc-project-../x", None),
        ("..", None),
    ],
)
def test_an_owner_follows_from_the_name_and_is_never_a_system_user(name: str, owner: Owner | None) -> None:
    assert owner_of(name) == owner


@pytest.mark.parametrize(
    ("reason", "word"),
    [("deadline", "deadline"), ("by:pi:The node is needed.", "stopped"), ("", "stopped"), ("管理员", "stopped")],
)
def test_a_stop_in_somebodys_own_words_reaches_the_helper_as_a_word_that_it_takes(reason: str, word: str) -> None:
    assert stop_word(reason) == word
