"""A hub as JupyterHub ships it, for comparison: the head of its configuration, and signing in to it.

Invariant: it has the same proxy, database, ports and folders as ours (`tests.integration.hub_process`), and nothing else of ours.
"""

from __future__ import annotations

from typing import Final

from tests.integration.hub_process import Browser, HubProcess

HEAD: Final = """
import os, sys
DATA = os.environ["COMMONS_DATA"]
c.JupyterHub.bind_url = os.environ["COMMONS_PUBLIC_URL"]
c.JupyterHub.hub_bind_url = f"http://{os.environ.get('STOCK_HOST', '127.0.0.1')}:{os.environ['COMMONS_HUB_PORT']}"
c.JupyterHub.db_url = f"sqlite:///{DATA}/hub/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = f"{DATA}/secrets/hub_cookie_secret"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ['COMMONS_PROXY_API_PORT']}"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
"""
OURS: Final = """
import os, sys
load_subconfig(os.environ["TEST_CONFIG"])
"""


def sign_in(hub: HubProcess, name: str) -> Browser:
    """Somebody signed in to a stock hub, which takes any password."""
    browser = Browser(hub, name)
    assert browser.try_sign_in("any").status_code == 302
    browser.http.get("/hub/home", headers={"Sec-Fetch-Mode": "navigate"})
    return browser
