"""The `[sign_in]` table of portal.toml: providers, who of theirs may come in, and which roles they get.

Invariants: a provider that is not told whom to let in lets in nobody; client secrets are files of the data folder
(`secrets/sign_in_<id>`), never values of this file; every mistake is reported with its key.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from spawners.profiles import Duration

Kind = Literal["demo", "oidc", "orcid", "egi", "cilogon", "github", "globus", "google"]
ProviderId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
RoleName = Literal["admin", "decider", "reviewer", "auditor"]
ISSUERS: Final[dict[str, str]] = {
    "orcid": "https://orcid.org",
    "egi": "https://aai.egi.eu/auth/realms/egi",
    "cilogon": "https://cilogon.org",
    "globus": "https://auth.globus.org",
    "google": "https://accounts.google.com",
    "github": "https://github.com",
}


class ProviderTable(BaseModel):
    """One `[sign_in.providers.<id>]` table."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Kind = Field(description="`demo`, `oidc` (any OpenID provider), or a preset.")
    title: str = Field("", max_length=60, description="What its button says; empty: its own name.")
    client_id: str = Field(
        "",
        max_length=255,
        description="What the provider calls this portal. The secret is the file `secrets/sign_in_<id>`.",
    )
    issuer: str = Field(
        "", max_length=255, description="The OpenID issuer; presets know theirs. For `github`: an Enterprise server."
    )
    allow_everyone: bool = Field(False, description="Let in everybody whom the provider vouches for.")
    allowed_subjects: list[str] = Field(
        default_factory=list, description="Let in these subjects (`sub`; on GitHub the number)."
    )
    allowed_groups: list[str] = Field(
        default_factory=list,
        description="Let in members of these groups of the claim `groups_claim`; on GitHub: organisations.",
    )
    allowed_idps: list[str] = Field(
        default_factory=list,
        description="CILogon: let in people of these home institutions (entity ids); they are offered first.",
    )
    groups_claim: str = Field("groups", max_length=100, description="The claim that lists groups.")
    name_claim: str = Field(
        "", max_length=100, description="The claim that a new user name is made from; empty: the usual ones."
    )
    scopes: list[str] = Field(default_factory=list, description="Scopes to ask for; empty: what the kind needs.")
    roles: dict[RoleName, list[str]] = Field(
        default_factory=dict, description="Who gets a role of the portal: `subject:…` or `group:…`."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "demo":
            return self
        if not self.client_id:
            raise ValueError("client_id is missing")
        if self.kind == "oidc" and not self.issuer:
            raise ValueError("issuer is missing")
        if self.issuer and not _is_safe(self.issuer):
            raise ValueError("issuer must be an https address (http on a loopback address only)")
        if not (self.allow_everyone or self.allowed_subjects or self.allowed_groups or self.allowed_idps):
            raise ValueError("lets in nobody: say allow_everyone, allowed_subjects, allowed_groups or allowed_idps")
        for rules in self.roles.values():
            if not all(rule.startswith(("subject:", "group:")) for rule in rules):
                raise ValueError("roles: each entry is subject:… or group:…")
        return self

    @property
    def issuer_url(self) -> str:
        """The issuer that this provider's people belong to."""
        return self.issuer or ISSUERS.get(self.kind, "")


class SignInTable(BaseModel):
    """The `[sign_in]` table: who may sign in and how often that is asked again."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    refresh: Duration = Field(
        60, ge=5, le=300, description="Age at which the hub asks again whether a signed-in person may still be here."
    )
    outage_grace: Duration = Field(
        3600, ge=0, le=86_400, description="How long people stay signed in while their provider does not answer."
    )
    guesses: int = Field(
        5, ge=1, le=100, description="Wrong passwords for one user name after which that name has to wait a minute."
    )
    providers: dict[ProviderId, ProviderTable] = Field(
        default_factory=lambda: {"demo": ProviderTable(kind="demo")},
        min_length=1,
        description="Sign-in providers, in the page's order.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        issuers = [one.issuer_url for one in self.providers.values()]
        if len(set(issuers)) != len(issuers):
            raise ValueError("providers: two of them have one issuer")
        if sum(one.kind == "demo" for one in self.providers.values()) > 1:
            raise ValueError("providers: more than one is the demo")
        return self


def _is_safe(url: str) -> bool:
    return url.startswith(("https://", "http://127.0.0.1:", "http://localhost:", "http://[::1]:"))
