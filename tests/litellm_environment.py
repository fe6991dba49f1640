"""LiteLLM in an environment of its own (`.tools/litellm`), pinned: for the benchmark and for jupyter-ai's way to a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.portal import ROOT

LITELLM: Final = "litellm[proxy]==1.106.2"


def litellm_programs() -> Path:
    """The folder of its programs; made on first use, which takes minutes."""
    folder = ROOT / ".tools" / "litellm"
    done = folder / "installed"
    if not done.exists() or done.read_text() != LITELLM:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "-q", LITELLM], check=True)
        done.write_text(LITELLM)
    return folder / "bin"
