"""The command line: which module a command becomes, and what must be installed for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.onehost.commands import DEVELOPER_COMMANDS, HELP, LEDGER_COMMANDS, plan
from deploy.onehost.console import CannotGoOn
from deploy.onehost.quota_command import split_data
from deploy.onehost.up import parse
from tests.commands import split_at_dashes


def test_up_installs_the_model_unless_it_is_left_out() -> None:
    assert plan(["up"]).requirements == ("model",)
    assert plan(["up", "--port", "9000", "--no-model"]).requirements == ("run",)


def test_developer_commands_keep_their_name_as_first_argument() -> None:
    call = plan(["test", "unit", "--full"])
    assert (call.module, call.arguments) == ("tests.commands", ("test", "unit", "--full"))
    assert "test" in call.requirements


def test_a_benchmark_installs_the_model_only_where_it_may_start_a_portal() -> None:
    assert plan(["bench", "ledger", "--engine", "sqlite"]).requirements == ("test",)
    for words in (["bench"], ["bench", "--help"], ["bench", "startup"]):
        assert "model" in plan(words).requirements


def test_a_command_on_the_books_goes_to_the_quota_service() -> None:
    call = plan(["verify", "--data", "here"])
    assert (call.module, call.arguments) == ("deploy.onehost.quota_command", ("verify", "--data", "here"))


def test_a_word_that_is_no_command_is_refused_before_anything_is_installed() -> None:
    with pytest.raises(CannotGoOn, match="no command 'upp'"):
        plan(["upp"])


def test_the_help_names_every_command() -> None:
    for command in ("up", *LEDGER_COMMANDS, *DEVELOPER_COMMANDS):
        assert f"\n  {command} " in HELP


@pytest.mark.parametrize("words", [["verify", "--data", "here", "--json"], ["--data=here", "verify", "--json"]])
def test_the_data_folder_is_taken_out_of_the_quota_services_arguments(words: list[str]) -> None:
    assert split_data(words) == (Path("here"), ["verify", "--json"])


def test_a_data_option_without_a_folder_is_refused() -> None:
    with pytest.raises(CannotGoOn, match="name the data folder"):
        split_data(["verify", "--data"])


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "8000.0", ""])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--port", port])
    assert "a port is a number from 1 to 65535" in capsys.readouterr().err


def test_paths_are_absolute_because_programs_run_elsewhere() -> None:
    options = parse(["--data", "d", "--ready-file", "r.json"])
    assert options.data.is_absolute()
    assert options.ready_file is not None
    assert options.ready_file.is_absolute()


def test_pytest_options_stand_after_two_dashes() -> None:
    assert split_at_dashes(["unit", "--full", "--", "-k", "x"]) == (["unit", "--full"], ["-k", "x"])
    assert split_at_dashes(["unit"]) == (["unit"], [])
