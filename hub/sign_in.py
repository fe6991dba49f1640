"""Makes the sign-in providers that portal.toml names."""

from hub.authenticators import PortalAuthenticator
from hub.demo_sign_in import DemoSignIn
from hub.external_sign_in import ExternalSignIn
from hub.settings import Settings


def demo(site: Settings) -> DemoSignIn | None:
    """The demo's sign-ins, where the site has them. Raises NotLoopback on an address that others can reach."""
    table = site.tables.sign_in
    if all(one.kind != "demo" for one in table.providers.values()):
        return None
    return DemoSignIn(site.secrets.demo_users, site.public_url, table.guesses, PortalAuthenticator().normalize_username)


def providers(site: Settings) -> dict[str, ExternalSignIn]:
    """The providers outside, in the page's order."""
    return {
        name: ExternalSignIn(
            name, table, site.secrets.provider_secrets[name], f"{site.public_url}hub/sign-in/{name}/back"
        )
        for name, table in site.tables.sign_in.providers.items()
        if table.kind != "demo"
    }
