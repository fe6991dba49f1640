"""A server extension for a course's formgrader: its pages' links to files lead to this server, and not to the portal's root.

nbgrader 0.9.6 builds them in `linkTo` (static/js/utils.js) without the server's base URL, for pages that are opened outside JupyterLab.
"""

from typing import Any, Final

from jinja2 import BaseLoader, ChoiceLoader, DictLoader

_TEMPLATE: Final = "base.tpl"
_AFTER: Final = 'var base_url = "{{ base_url }}";'
_MENDED: Final = """
  if (window === window.top) {
    const toRoot = linkTo;
    linkTo = (type, path) => (index, element) => {
      const link = toRoot(type, path)(index, element);
      link.setAttribute("href", base_url + link.getAttribute("href").replace("/./", "/"));
      return link;
    };
  }
"""


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "hub.formgrader_links"}]


def _load_jupyter_server_extension(server: Any) -> None:
    """Nothing yet: nbgrader's own extension may come later."""


async def _start_jupyter_server_extension(server: Any) -> None:
    """Once all are loaded: put our words into the head of nbgrader's pages."""
    environment = server.web_app.settings["nbgrader_jinja2_env"]
    loader: BaseLoader = environment.loader
    text, _, _ = loader.get_source(environment, _TEMPLATE)
    mended = DictLoader({_TEMPLATE: text.replace(_AFTER, _AFTER + _MENDED)})
    environment.loader = ChoiceLoader([mended, loader])
