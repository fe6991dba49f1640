"""A whole portal with a stub in the place of its model, and a model request as a notebook makes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp
from multidict import CIMultiDict

from tests.portal import ROOT, Portal
from tests.waiting import PATIENCE_S

_MODEL: Final = """
[models.stub]
title = "Stub"
context_tokens = 4096
[[models.stub.servers]]
url = "{url}"
allow_private = true
provider = "test"
hardware = "cpu"
cloud = "here"
"""


def portal_with_stub(folder: Path, model_url: str, changes: Mapping[str, str]) -> Portal:
    """A portal whose site file differs in `changes`, text by text, and in a model `stub`; it is not started."""
    site = (ROOT / "portal.toml").read_text()
    for before, after in changes.items():
        assert site.count(before) == 1
        site = site.replace(before, after)
    portal_file = folder / "portal.toml"
    portal_file.write_text(site + _MODEL.format(url=model_url))
    return Portal(folder / "data", model=False, portal_file=portal_file)


async def ask_a_model(address: str, key: str) -> tuple[int, Mapping[str, str]]:
    """Ask `stub` under `address`, where a client looks for /chat/completions: the answer's status and headers."""
    body = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers={"Authorization": f"Bearer {key}"}) as http,
        http.post(f"{address}/chat/completions", json=body) as answer,
    ):
        return answer.status, CIMultiDict(answer.headers)
