"""Where the portal's parts stand in a browser's eyes: one origin, or one for the portal and one for each person.

Invariant: with `hub.user_domains` no session shares an origin with the portal, so that a browser keeps a hostile notebook page out
of the hub's, the quota service's and everybody else's pages; services of ours stay on the portal's own origin. With https, too, the
cookies have the `__Host-` prefix: then no page of a subdomain can put one of its own in their place.
Source: JupyterHub 6.1.1, app.py (`subdomain_host`, `cookie_host_prefix_enabled`); RFC 6265bis, 4.1.3.
"""

from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from jupyterhub.utils import subdomain_hook_idna
from traitlets.config import Config

from hub import roles
from hub.settings import LOOPBACK, Settings

USER: Final = "user"


def traits(site: Settings) -> Config:
    """What the hub has to know of its addresses."""
    found = Config()
    found.JupyterHub.bind_url = site.public_url
    found.JupyterHub.public_url = site.public_url
    found.JupyterHub.hub_bind_url = f"http://{LOOPBACK}:{site.hub_port}"
    found.Proxy.extra_routes = roles.extra_routes(site)
    if site.tables.hub.user_domains:
        parts = urlsplit(site.public_url)
        found.JupyterHub.subdomain_host = f"{parts.scheme}://{parts.netloc}"
        found.JupyterHub.subdomain_hook = domain_of
        found.JupyterHub.cookie_host_prefix_enabled = parts.scheme == "https"
    return found


def domain_of(name: str, domain: str, kind: str) -> str:
    """The domain of a person, or of a service: ours stand beside the hub."""
    return str(subdomain_hook_idna(name, domain, kind)) if kind == USER else domain


def notebook_host(site: Settings, user_name: str) -> str | None:
    """The Host header under which the proxy knows a person's sessions; None where it looks at paths alone."""
    parts = urlsplit(site.public_url)
    if not site.tables.hub.user_domains:
        return None
    port = f":{parts.port}" if parts.port else ""
    return domain_of(user_name, parts.hostname or "", USER) + port


def client_address(request: Any) -> str:
    """Where a request comes from: what the proxy, and nobody else, says of it.

    The last entry of X-Forwarded-For is the proxy's own; those before it, X-Real-Ip and whatever a session sends to the hub directly
    from another address are the sender's to choose. Tornado's `remote_ip` believes X-Real-Ip, so it is not used.
    """
    peer = str(request.connection.context.address[0])
    said = [one.strip() for one in request.headers.get("X-Forwarded-For", "").split(",")]
    return said[-1] if said[-1] and _is_loopback(peer) else peer


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
