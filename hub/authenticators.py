"""The portal's authenticator: several providers on one page, and the question whether somebody may still be here.

Invariants: what was true at sign-in is asked again at each refresh, and a person who is not let in any more is signed out; a
provider's silence keeps people signed in for a bounded time and is neither a yes nor a no; who is called what is decided by the
quota service from (issuer, subject), never by what a provider lets people call themselves; auth_state is kept encrypted.
"""

import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from jupyterhub.auth import Authenticator
from jupyterhub.handlers.base import BaseHandler
from tornado import web
from traitlets import Callable as CallableTrait
from traitlets import Dict, Float, Instance
from traitlets import List as ListTrait

from hub import roles
from hub.demo_sign_in import DEMO_ISSUER, DemoSignIn
from hub.external_sign_in import ExternalSignIn, Identity, SignInRefused
from hub.language import language_of, translator
from hub.oidc import ProviderUnreachable
from hub.people import People, person_of
from hub.settings import DemoUser
from hub.sign_in_handlers import FromProviderHandler, SignOutEverywhereHandler, ToProviderHandler, unreachable_text
from quota.client import QuotaUnavailable

DEMO: Final = "demo"
Model = dict[str, Any]

# JupyterHub 6.1.1 reads this attribute for a failed refresh and sets it for token requests only: without it a person who was
# signed out meanwhile causes an AttributeError in the log of every page. Held by tests/unit/hub/test_hub_bugs.py.
if not hasattr(BaseHandler, "_token_authenticated"):
    BaseHandler._token_authenticated = False


class PortalAuthenticator(Authenticator):
    """Every provider of the site. What a provider is stands in `hub.demo_sign_in` and `hub.external_sign_in`."""

    people = Instance(
        People, allow_none=True, help="Tells the quota service who a hub user is, and asks it what to call one."
    ).tag(config=True)
    pages = CallableTrait(help="Gives the handlers of the portal's own pages, which come before the hub's.").tag(
        config=True
    )
    demo = Instance(DemoSignIn, allow_none=True, help="The demo's sign-ins, where the site has them.").tag(config=True)
    providers = Dict(help="The ExternalSignIn of each provider id, in the page's order.").tag(config=True)
    outage_grace_s = Float(3600, help="How long people stay signed in while their provider does not answer.").tag(
        config=True
    )
    turns = CallableTrait(default_value=None, allow_none=True, help="Gives the turns that starts take.").tag(
        config=True
    )
    watches = ListTrait(
        help="Each is called with the hub's application and this authenticator as the hub's loop begins."
    ).tag(config=True)
    now_s: Callable[[], float] = staticmethod(time.time)

    def normalize_username(self, username: str) -> str:
        """One spelling a name: compatibility forms folded, lower case, no space around it."""
        return unicodedata.normalize("NFKC", super().normalize_username(username)).strip().lower()

    def get_handlers(self, app: Any) -> list[Any]:
        """Ours first: the hub takes the first match, so they can stand in for stock routes."""
        for watch in self.watches:
            watch(app, self)
        external = [
            route
            for name, sign_in in self.providers.items()
            for route in (
                (rf"/sign-in/{name}", ToProviderHandler, {"sign_in": sign_in}),
                (rf"/sign-in/{name}/back", FromProviderHandler, {"sign_in": sign_in}),
            )
        ]
        own = [*external, (r"/commons/sign-out-everywhere", SignOutEverywhereHandler)]
        return [*self.pages(), *own, *super().get_handlers(app)]

    async def authenticate(self, handler: Any, data: Mapping[str, Any]) -> Model | None:
        """Who somebody is; None where they are nobody here. Raises an HTTP error with what to do next."""
        sign_in = data.get("provider")
        if isinstance(sign_in, ExternalSignIn):  # the sign-in form can only send text
            return await self._external(handler, sign_in)
        if self.demo is None:
            return None
        user = self.demo.identify(handler, data)
        if user is None:
            return None
        return _demo_model(user, _foreign_groups(handler.find_user(self.normalize_username(user.name))))

    def check_allowed(self, username: str, authentication: Model | None = None) -> bool:
        """By the rules of the provider that vouches for them."""
        if authentication is None:
            return True  # the hub asks so for names of its configuration; nobody signs in by it
        state = authentication["auth_state"]
        if state["provider"] == DEMO:
            return self.demo is not None and self.demo.user(username) is not None
        sign_in = self.providers.get(state["provider"])
        return sign_in is not None and sign_in.lets_in(state["groups"], state["subject"], state["idp"])

    async def run_post_auth_hook(self, handler: Any, auth_model: Model) -> Model:
        """After a sign-in that succeeded, tell the quota service who it was."""
        model: Model = await super().run_post_auth_hook(handler, auth_model)
        await self._tell(model)
        return model

    async def refresh_user(self, user: Any, handler: Any = None) -> bool | Model:
        """Ask everything again that let the person in; False signs them out.

        While the provider is silent: True for `outage_grace_s` after its last word, then a 503 that says so.
        """
        state = await user.get_auth_state()
        if not state:
            return False
        try:
            model = await self.still_here(user, state)
        except ProviderUnreachable as error:
            self.log.warning("Whether %s may still be here cannot be asked: %s", user.name, error)
            if self.now_s() - float(state.get("seen_s") or 0) <= self.outage_grace_s:
                return True
            sign_in = self.providers[state["provider"]]
            raise web.HTTPError(503, unreachable_text(handler, sign_in)) from None
        if model is None or not self.check_blocked_users(user.name, model) or not self.check_allowed(user.name, model):
            return False
        await self._tell(model)
        if self.turns is not None:
            await self.turns().take()  # before a start JupyterHub asks this last, and then writes a lot
        return model

    async def still_here(self, user: Any, state: Mapping[str, Any]) -> Model | None:
        """The auth model of somebody who is signed in, as of now; None for somebody who must not be here any more.

        Raises ProviderUnreachable.
        """
        provider = state.get("provider", DEMO)
        if provider == DEMO:
            found = self.demo.user(user.name) if self.demo is not None else None
            return None if found is None else _demo_model(found, _foreign_groups(user))
        sign_in = self.providers.get(provider)
        if sign_in is None or sign_in.table.issuer_url != state["issuer"]:
            return None  # the site does not have this provider any more
        identity = await sign_in.look_again(state["subject"], state["tokens"])
        if identity is None:
            return None
        return self._model(user.name, sign_in, identity, _foreign_groups(user))

    async def _external(self, handler: Any, sign_in: ExternalSignIn) -> Model | None:
        _ = translator(language_of(handler))
        try:
            identity = await sign_in.identify(handler, handler.state_id)
        except ProviderUnreachable as error:
            self.log.warning("Sign-in through %s: %s", sign_in.name, error)
            raise web.HTTPError(503, unreachable_text(handler, sign_in)) from None
        except SignInRefused as error:
            self.log.warning("Refused a sign-in: %s", error)
            text = _(
                "%(provider)s did not prove who you are. Nothing was changed. Go to the sign-in page and try again."
            )
            raise web.HTTPError(403, text % {"provider": sign_in.title}) from None
        if not sign_in.lets_in(identity.groups, identity.subject, identity.idp):
            return None
        if self.people is None:
            raise TypeError("external sign-in needs someone to ask what people are called")
        person = person_of("", _auth_state(sign_in.name, identity, 0.0))
        try:
            name = await self.people.name_of(person, identity.preferred, language_of(handler))
        except QuotaUnavailable as error:
            self.log.warning("What to call somebody of %s cannot be asked: %s", sign_in.name, error)
            text = _("The quota service cannot be reached, and you have not been here before. Try again in a minute.")
            raise web.HTTPError(503, text) from None
        return self._model(name, sign_in, identity, _foreign_groups(handler.find_user(name)))

    def _model(self, name: str, sign_in: ExternalSignIn, identity: Identity, other_groups: Iterable[str]) -> Model:
        held = sign_in.roles_of(identity.groups, identity.subject)
        return {
            "name": name,
            "admin": "admin" in held,
            "groups": sorted({*roles.groups_of(held), *other_groups}),
            "auth_state": _auth_state(sign_in.name, identity, self.now_s()),
        }

    async def _tell(self, model: Mapping[str, Any]) -> None:
        if self.people is not None:
            await self.people.tell(model["name"], person_of(model["name"], model["auth_state"]))


def _auth_state(provider: str, identity: Identity, seen_s: float) -> Model:
    """What the hub keeps encrypted: who it was, and the tokens to ask again with."""
    return {
        "provider": provider,
        "issuer": identity.issuer,
        "subject": identity.subject,
        "display_name": identity.display_name,
        "email": identity.email,
        "groups": sorted(identity.groups),
        "idp": identity.idp,
        "tokens": dict(identity.tokens),
        "seen_s": seen_s,
    }


def _demo_model(user: DemoUser, other_groups: Iterable[str]) -> Model:
    name = user.name.lower()
    return {
        "name": name,
        "admin": "admin" in user.roles,
        "groups": sorted({*roles.groups_of(user.roles), *other_groups}),
        "auth_state": {"provider": DEMO, "issuer": DEMO_ISSUER, "subject": name, "display_name": user.name},
    }


def _foreign_groups(user: Any) -> set[str]:
    """Groups that somebody else fills, courses among them: the hub replaces all groups by those of the auth model."""
    return set() if user is None else {group.name for group in user.groups} - set(roles.ROLE_GROUPS)
