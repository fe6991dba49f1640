"""The gateway's tables: private addresses on purpose only, keys from files, mistakes named."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from quota.gateway.settings import GatewayTable, ModelTable, ServerTable, allowed_hosts, open_models

SERVER = {"url": "https://models.example.org/v1", "provider": "p", "hardware": "h100", "cloud": "c"}


def table(**changes: object) -> ModelTable:
    return ModelTable.model_validate({"title": "M", "context_tokens": 1000, "servers": [SERVER], **changes})


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/v1", "http://localhost/v1", "http://10.1.2.3/v1", "http://192.168.1.1/v1", "http://[::1]/v1",
        "http://169.254.169.254/latest", "http://[fe80::1]/v1", "http://0.0.0.0/v1", "demo", "http://100.64.0.1/v1",
        "http://metadata.google.internal/v1",
    ],
)  # fmt: skip
def test_a_private_address_needs_an_explicit_allowance(url: str) -> None:
    with pytest.raises(ValidationError, match="allow_private"):
        ServerTable.model_validate({**SERVER, "url": url})
    assert ServerTable.model_validate({**SERVER, "url": url, "allow_private": True}).allow_private


@pytest.mark.parametrize(
    "url", ["", "ftp://x/v1", "http://", "http://u:p@example.org/v1", "http://example.org/v1?x=1", "file:///etc"]
)
def test_an_address_is_plain_http(url: str) -> None:
    with pytest.raises(ValidationError):
        ServerTable.model_validate({**SERVER, "url": url})


@pytest.mark.parametrize("name", ["../hub_credential", "a/b", "/etc/passwd", ".hidden"])
def test_a_key_file_is_a_name_in_the_secrets_folder(name: str) -> None:
    with pytest.raises(ValidationError):
        ServerTable.model_validate({**SERVER, "key_file": name})


@pytest.mark.parametrize("weight", ["1e3", "-1", "x", 1, 0.5, "1/0", "1001"])
def test_a_weight_is_an_exact_text(weight: object) -> None:
    with pytest.raises(ValidationError):
        table(weight=weight)


def test_keys_are_read_from_files_and_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "model_key").write_text("s3cret\n")
    models = open_models(
        GatewayTable(), {"m": table(servers=[{**SERVER, "key_file": "model_key"}])}, secrets=tmp_path, demo_port=None
    )
    [model] = models.offered()
    assert model.servers[0].target.key == "s3cret"
    assert "s3cret" not in repr(model)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone: file: cannot be read"):
        open_models(
            GatewayTable(), {"m": table(servers=[{**SERVER, "key_file": "gone"}])}, secrets=tmp_path, demo_port=1
        )


def test_the_demo_model_is_where_the_launcher_put_it_or_nowhere(tmp_path: Path) -> None:
    tables = {"m": table(servers=[{**SERVER, "url": "demo", "allow_private": True}])}
    [model] = open_models(GatewayTable(), tables, secrets=tmp_path, demo_port=5).offered()
    assert model.servers[0].target.url == "http://127.0.0.1:5/v1"
    without = open_models(GatewayTable(), tables, secrets=tmp_path, demo_port=None)
    assert list(without.offered()) == []
    assert without.get("m") is not None
    assert allowed_hosts(tables) == {"127.0.0.1"}


def test_limits_stay_within_the_context(tmp_path: Path) -> None:
    tables = {"m": table(default_output_tokens=5000, largest_output_tokens=9000)}
    [model] = open_models(GatewayTable(), tables, secrets=tmp_path, demo_port=None).offered()
    assert (model.limits.default_output_tokens, model.limits.largest_output_tokens) == (1000, 1000)
