"""docs/reference/portal.md, made from the settings models: every key of portal.toml with its meaning and default.

`python -m tests.portal_reference` writes it; a test compares, so an undocumented key fails the suite.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hub.settings import HubTables
from quota.settings import QuotaTables
from spawners.settings import SpawnerSettings

PATH = Path(__file__).resolve().parent.parent / "docs" / "reference" / "portal.md"
OWNERS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("spawners", SpawnerSettings),
    ("hub", HubTables),
    ("quota", QuotaTables),
)
HEAD = """\
# portal.toml, key by key

One file per site. Each package validates its own tables; a table or key that nobody claims is an error, and every error names file, key and reason.
Durations are written as "30 s", "10 min", "2 h" or "1 d". This page is made from the code: `python -m tests.portal_reference`.
"""


@dataclass(frozen=True)
class Key:
    """One key: its dotted path, what it means, what stands where it is left out."""

    path: str
    description: str
    default: str


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Every key of a model, depth first; `<id>` stands for a name that the site chooses."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield Key(path, field.description or "", _default(field))
        inner, separator = _inner(field.annotation)
        if inner is not None:
            yield from keys(inner, path + separator)


def _inner(annotation: object) -> tuple[type[BaseModel] | None, str]:
    """The model inside an annotation, and what stands between its name and its keys."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, "."
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _inner(arguments[0])
    for argument in arguments:
        found, _ = _inner(argument)
        if found is not None:
            return found, ".<id>." if origin is dict else "[]." if origin in (list, tuple) else "."
    return None, "."


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or isinstance(field.default, BaseModel):
        return ""
    if isinstance(field.default, Enum):
        return f'`"{field.default.value}"`'
    return f'`"{field.default}"`' if isinstance(field.default, Fraction | str) else f"`{field.default!r}`"


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    for owner, model in OWNERS:
        parts.append(f"\n## Tables of {owner}\n\n| key | meaning | default |\n| --- | --- | --- |\n")
        for key in keys(model):
            meaning = key.description.replace("|", "\\|").replace("\n", " ")
            parts.append(f"| `{key.path}` | {meaning} | {key.default} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
