"""A strict Content-Security-Policy for every page of the hub, stock ones included.

Invariant: a script runs only if it is a file of this origin or was in the template (it carries the response's nonce); no inline
style, no frame, no foreign address. The templates are rewritten as they are loaded: each `<script` gets the nonce, and rendering
the first one sets the header, so a page cannot have the one without the other. Source: CSP Level 3.
"""

import re
import secrets
from typing import Any, Final

from jinja2 import Environment, pass_context
from jinja2.ext import Extension
from jinja2.runtime import Context

# What the users panel of JupyterHub 6.1.1 puts into <style> elements of its own (an empty one, then each with its text); a hash
# allows that very text. tests/browser/test_content_security.py fails when a newer panel brings other ones.
PANEL_STYLES: Final = (
    "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    "w7Usyo/rPp6eCo7WASfk8i5cozjduxM9IujW0nEpQak=",
    "5k3KQmU247hvlaDqG4HJUENnrW1aVfnmZYFU310Xf/s=",
    "yc20s5VMsrTXNrrWTzNh/MJmPeXMg9w9sWu+G9oflvQ=",
    "ORc7ivnwv+NsJeRicjD/V4Ltgswgg3jB7bHQsTIasyo=",
    "vhDW7mMNHB2DBBT9SGk8qXkYH/8iPZxo3OxgyL0sQHE=",
)
POLICY: Final = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; "
    "style-src 'self' " + " ".join(f"'sha256-{one}'" for one in PANEL_STYLES) + "; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'"
)
_SCRIPT: Final = re.compile(r"<script\b")
# Stock templates hide two places by inline style; hub/static/commons.css hides what carries this attribute, and scripts show it.
_HIDDEN: Final = re.compile(r'\sstyle="display: none;"')


class Guarded(Extension):
    """Gives each script of a template the nonce of the response."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals["csp_nonce"] = _nonce

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Rewrite a template's source."""
        return _HIDDEN.sub(" data-cc-hidden", _SCRIPT.sub('<script nonce="{{ csp_nonce() }}"', source))


@pass_context
def _nonce(context: Context) -> str:
    # The hub hands templates no handler, only its bound method `static_url`.
    handler: Any = getattr(context.get("static_url"), "__self__", None)
    if handler is None:
        return ""
    if getattr(handler, "_csp_nonce", None) is None:
        handler._csp_nonce = secrets.token_urlsafe(16)
        handler.set_header("Content-Security-Policy", POLICY.format(nonce=handler._csp_nonce))
    return str(handler._csp_nonce)
