"""What every use case is given: the ports, the policy's numbers and the programme's limits, in one frozen object.

`quota.main` makes one at start; tests make one of fakes. A use case is an async function whose first argument is `Services`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quota.domain.exchange import ExchangeLimits
from quota.domain.grading import GradingPlace
from quota.domain.limits import Limits
from quota.service.exchange_ports import CourseFiles, Objects
from quota.service.gateway_ports import ModelCatalogue, OfferedModel
from quota.service.ledger_ports import Ledger
from quota.service.ports import Clock, Store
from quota.service.session_ports import Hub, ProfileCatalogue, SessionEvidence


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers of docs/reference/policy.md; `[policy]` of portal.toml changes them."""

    stop_margin_s: int = 120
    meter_interval_s: int = 60
    start_lease_s: int = 600
    ended_grace_s: int = 30
    unknown_lease_s: int = 3600
    idle_notice_s: int = 600  # between the notice and the stop of an idle session
    stop_grace_s: int = 60  # between SIGTERM and SIGKILL, inside the stop margin
    notice_s: int = 600  # between the decision that a session has to end and its end
    pending_ask_s: int = 86_400
    pending_max_s: int = 2 * 86_400
    grace_days: int = 14  # after an allocation's end: rescue and data only
    pi_absence_days: int = 30
    rescue_s_a_day: int = 7200
    retry_max_s: int = 300  # longest pause between two tries of one session's action


@dataclass(frozen=True, slots=True)
class Programme:
    """Who awards, and the most that one application may ask for."""

    name: str = "Compute Commons"
    ask_gpu_hours_max: int = 10_000_000
    ask_tokens_max: int = 10**15
    ask_days_max: int = 1096


class NoModels:
    """A portal without language models."""

    def offered(self, project_slug: str | None = None) -> Sequence[OfferedModel]:
        return ()

    def gpus(self, model: str, provider: str, hardware: str, cloud: str) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Services:
    clock: Clock
    ledger: Ledger
    store: Store
    hub: Hub
    evidence: SessionEvidence
    catalogue: ProfileCatalogue
    policy: Policy
    programme: Programme
    session_key_secret: bytes = field(repr=False)
    sends_mail: bool = False  # whether the site has a mail server: without one no mail is put into the outbox
    models: ModelCatalogue = field(default_factory=NoModels)
    limits: Limits = field(default_factory=Limits)
    objects: Objects | None = None  # bundles of courses; None in a process that keeps none
    course_files: CourseFiles | None = None  # likewise
    exchange: ExchangeLimits = field(default_factory=ExchangeLimits)
    grading: GradingPlace = field(default_factory=GradingPlace)
