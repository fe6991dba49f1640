"""nbgrader's configuration in a portal's sessions: its exchange is the portal's. Found through JUPYTER_CONFIG_PATH or etc/jupyter."""

import sys
from pathlib import Path

c = get_config()  # noqa: F821  (traitlets gives it)
try:
    from commons_exchange.configure import configure
except ModuleNotFoundError:  # a local session, which runs from the checkout
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    from commons_exchange.configure import configure

configure(c)
