"""Checks on what is read by people: templates parse, relative links in the documentation lead somewhere.

Invariant: pure reading; each function returns one line for each mistake, with its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jinja2

TEMPLATE_FOLDERS = ("hub", "quota", "deploy")
TEMPLATE_ENDINGS = frozenset({".html", ".j2", ".txt", ".xml"})
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]*`")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)


def broken_templates(root: Path) -> list[str]:
    """Templates that Jinja2 cannot parse."""
    environment = jinja2.Environment(
        autoescape=True, extensions=["jinja2.ext.i18n", "jinja2.ext.do", "jinja2.ext.loopcontrols"]
    )
    mistakes = []
    for path in _templates(root):
        try:
            environment.parse(path.read_text(encoding="utf-8"), filename=str(path))
        except (jinja2.TemplateSyntaxError, UnicodeDecodeError) as error:
            line = getattr(error, "lineno", 0)
            mistakes.append(f"{path.relative_to(root)}:{line}: {error}")
    return mistakes


def _templates(root: Path) -> Iterator[Path]:
    for folder in TEMPLATE_FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if "templates" in path.parts and path.suffix in TEMPLATE_ENDINGS:
                yield path


def broken_links(root: Path) -> list[str]:
    """Relative links of Markdown files that name no file, or no heading of it."""
    mistakes = []
    for document in [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]:
        text = INLINE_CODE.sub("", FENCE.sub("", document.read_text(encoding="utf-8")))
        for target in LINK.findall(text):
            if reason := _why_broken(document, target):
                mistakes.append(f"{document.relative_to(root)}: {target}: {reason}")
    return mistakes


def _why_broken(document: Path, target: str) -> str:
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return ""
    name, _, anchor = target.partition("#")
    linked = document if not name else document.parent / name
    if not linked.exists():
        return "no such file"
    if anchor and linked.suffix == ".md" and anchor not in _anchors(linked):
        return "no such heading"
    return ""


def _anchors(document: Path) -> set[str]:
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    return {anchor(heading) for heading in HEADING.findall(text)}


def anchor(heading: str) -> str:
    """The anchor that the forges make of a heading."""
    plain = re.sub(r"[`*_]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain))
