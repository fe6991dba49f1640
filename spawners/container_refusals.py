"""What a person reads of a start whose container ended before its notebook server answered, or did not come up in time. Pure."""

from jupyterhub.spawner import SpawnException

from spawners import container_spec as spec
from spawners.phrases import say
from spawners.session_ends import SessionEnd
from spawners.session_traits import refused


def failed_start(language: str, end: SessionEnd | None, *, stopped_after_s: int | None = None) -> SpawnException:
    """The refusal, with the last lines; `stopped_after_s` where it lived and took too long, `end` None where nobody knows it any more."""
    if end is None:
        return refused(say(language, "removed"), reason="removed", status_code=500)
    if end.exit_status == spec.DEVICE_MISSING_STATUS and end.lines and end.lines[0].startswith(spec.PROBE_MISSING):
        text = say(language, "device_missing")
        return refused(text, reason="device_missing", status_code=503, log_lines=end.lines[:1])
    shown = [line for line in end.lines if line != spec.PROBE_CONFIRMED]
    if stopped_after_s is not None:
        text = say(language, "too_slow", seconds=stopped_after_s)
        return refused(text, reason="too_slow", status_code=500, log_lines=shown)
    text = say(language, "ended_early", status=end.exit_status)
    return refused(text, reason="ended_early", status_code=500, log_lines=shown)
