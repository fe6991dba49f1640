"""portal.toml as a file, and what is said where it cannot be used: one line a mistake, never with a value, which could be a secret."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class SettingsError(ValueError):
    """The portal cannot run with these settings; `lines` says why, one `file: key: reason` each."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines: list[str] = list(lines)
        super().__init__("\n".join(self.lines))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of the file. Raises SettingsError with what is wrong with it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path}: syntax: {error}"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{path}: file: is not UTF-8 text"]) from None
    except OSError as error:
        raise SettingsError([f"{path}: file: {error.strerror or error}"]) from None
