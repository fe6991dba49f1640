"""The routes of external sign-in: to the provider and back, one pair a provider, and the way out everywhere.

Invariants: the answer counts only in the browser that asked (state in a signed cookie) and only for the provider that was asked;
a failure shows what happened and what to do, and nothing that the provider wrote; signing out everywhere leaves what runs alone.
"""

from typing import Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.utils import new_token
from oauthenticator.oauth2 import OAuthCallbackHandler, OAuthLoginHandler, _deserialize_state
from tornado import web

from hub.external_sign_in import ExternalSignIn, nonce_of
from hub.language import language_of, translator
from hub.oidc import ProviderUnreachable


class ToProviderHandler(OAuthLoginHandler):
    """`GET /hub/sign-in/<provider>` → the provider's page. Changes nothing but the state cookie."""

    def initialize(self, sign_in: ExternalSignIn) -> None:
        """Take the provider; oauthenticator's handler reads it as `authenticator`."""
        self.sign_in = sign_in
        self._state_id = ""

    @property
    def authenticator(self) -> Any:
        """What oauthenticator's handler asks for addresses and client id."""
        return self.sign_in.oauth

    def _generate_state_id(self) -> str:
        self._state_id = super()._generate_state_id()
        return self._state_id

    def authorize_redirect(self, *args: Any, **kwargs: Any) -> None:
        """Send the nonce and, for CILogon, the home institutions to offer."""
        extra = kwargs["extra_params"] = {**kwargs.get("extra_params", {}), "nonce": nonce_of(self._state_id)}
        if self.sign_in.table.allowed_idps:
            extra["selected_idp"] = ",".join(self.sign_in.table.allowed_idps)
        super().authorize_redirect(*args, **kwargs)

    async def get(self) -> None:
        """Redirect, or say that the provider cannot be reached."""
        try:
            await self.sign_in.answers()
        except ProviderUnreachable as error:
            self.log.warning("Sign-in through %s: %s", self.sign_in.name, error)
            raise web.HTTPError(503, unreachable_text(self, self.sign_in)) from None
        super().get()


class FromProviderHandler(OAuthCallbackHandler):
    """`GET /hub/sign-in/<provider>/back`: the provider's answer, checked and turned into a sign-in."""

    def initialize(self, sign_in: ExternalSignIn) -> None:
        """Take the provider."""
        self.sign_in = sign_in

    @property
    def state_id(self) -> str:
        """The state of this browser's sign-in."""
        found = _deserialize_state(self.get_state_cookie()).get("state_id") if self.get_state_cookie() else ""
        return found if isinstance(found, str) else ""

    def check_error(self) -> None:
        """A provider's own words are not shown: whoever makes the address writes them."""
        if self.get_argument("error", ""):
            _ = translator(language_of(self))
            text = _(
                "%(provider)s did not sign you in. Nothing was changed. Go to the sign-in page to try again or another way."
            )
            raise web.HTTPError(403, text % {"provider": self.sign_in.title})

    def check_arguments(self) -> None:
        """As oauthenticator's, with one answer for every way in which the browser's state is not the address's."""
        self.check_error()
        try:
            self.check_code()
            self.check_state()
        except web.HTTPError as error:
            self.log.warning("Sign-in through %s: %s", self.sign_in.name, error.log_message)
            _ = translator(language_of(self))
            text = _("This sign-in is too old or was begun in another browser. Go to the sign-in page and begin again.")
            raise web.HTTPError(400, text) from None

    async def get(self) -> None:
        """Sign in and go where the person wanted to."""
        self.check_arguments()
        user = await self.login_user({"provider": self.sign_in})
        if user is None:
            _ = translator(language_of(self))
            text = _(
                "%(provider)s knows you, and this portal does not let you in with that account. Ask the portal's operators."
            )
            raise web.HTTPError(403, text % {"provider": self.sign_in.title})
        self._jupyterhub_user = user
        self.redirect(self.get_next_url(user))


class SignOutEverywhereHandler(BaseHandler):
    """`POST /hub/commons/sign-out-everywhere`: end every browser's sign-in and every token; what runs goes on."""

    @web.authenticated
    async def get(self) -> None:
        """Ask first; a GET changes nothing."""
        self.finish(await self.render_template("sign_out_everywhere.html", xsrf=self.xsrf_token.decode("ascii")))

    @web.authenticated
    async def post(self) -> None:
        """End them all and show the sign-in page."""
        user = self.current_user
        end_sign_ins(self.db, user)
        self.clear_login_cookie()
        self.redirect(self.settings["login_url"])


def end_sign_ins(db: Any, user: Any) -> None:
    """Make each of this person's cookies and tokens worthless, but for the tokens that running sessions report with."""
    kept = [spawner.api_token for spawner in user.spawners.values() if spawner.active and spawner.api_token]
    user.orm_user.cookie_id = new_token()
    for token in list(user.orm_user.api_tokens):
        if not any(token.match(one) for one in kept):
            db.delete(token)
    for code in list(user.orm_user.oauth_codes):
        db.delete(code)
    user._auth_refreshed = None
    db.commit()


def unreachable_text(handler: Any, sign_in: ExternalSignIn) -> str:
    """What somebody reads while a provider is silent."""
    _ = translator(language_of(handler))
    text = _(
        "%(provider)s cannot be reached, so it cannot say who you are. Sessions that run go on. Try again in a minute."
    )
    return text % {"provider": sign_in.title}
