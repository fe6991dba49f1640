"""A site file whose sessions all run in containers: what the hub does for courses must not need sessions on its own machine."""

from __future__ import annotations

import re
from pathlib import Path

from tests.portal import ROOT


def portal_file(folder: Path, grading: str = "local") -> Path:
    """The checkout's portal.toml with its CPU profiles in containers of a host whose helper is somebody else's."""
    text = (ROOT / "portal.toml").read_text()
    text = re.sub(r"\[profiles\.gpu\d\]\n(?:.+\n)+\n", "", text).replace('backend = "local"', 'backend = "container"')
    text = text.replace('[grading]\nbackend = "container"', f'[grading]\nbackend = "{grading}"')
    helper = f'[containers]\nhelper = "{folder}/no-helper.sock"\nkeeper = "{folder}/no-keeper.sock"\n'
    path = folder / "portal.toml"
    path.write_text(f'{text}\n{helper}\n[containers.images.lab]\nimage = "sha256:{"0" * 64}"\n')
    return path
