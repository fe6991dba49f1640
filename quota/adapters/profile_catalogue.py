"""The start chooser's profiles as the quota service prices them; spawners.profiles owns what a profile is."""

from __future__ import annotations

from quota.service.session_ports import PricedProfile
from spawners.profiles import Profiles


class Catalogue:
    """Answers from the profiles that were read at start."""

    def __init__(self, profiles: Profiles) -> None:
        self._priced = {
            one.id: PricedProfile(
                id=one.id,
                title=one.title,
                hardware=one.hardware,
                cloud=one.cloud,
                applications=tuple(application.id for application in one.applications),
                gpus=one.gpus,
                longest_runtime_s=one.longest_runtime_s,
                title_zh=one.title_zh,
                backend=one.backend.value,
                rescue=one.rescue,
                idle_s=one.idle_s,
                keep_alive_s=one.keep_alive_s,
            )
            for one in profiles
        }

    def profile(self, profile_id: str) -> PricedProfile | None:
        return self._priced.get(profile_id)

    def free_profile(self) -> PricedProfile | None:
        return next((one for one in self._priced.values() if one.gpus == 0), None)

    def unpriced_hardware(self) -> set[str]:
        """Hardware that needs a charge rate."""
        return {one.hardware for one in self._priced.values() if one.gpus > 0}
