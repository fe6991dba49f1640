"""What containers and jobs tell people, in both languages: refusals and the steps of a pending start.

`spawners` knows no catalogue of translations; admission sets the session's language. Invariant: each phrase exists in every
language with the same parameters (held by a test).
"""

from datetime import UTC, datetime
from typing import Final

from spawners.devices import Busy
from spawners.job_phrases import JOB_PHRASES

PHRASES: Final[dict[str, dict[str, str]]] = JOB_PHRASES | {
    "folders": {"en": "Opening your home folder", "zh": "正在打开您的主目录"},
    "devices": {"en": "Choosing GPUs", "zh": "正在选择 GPU"},
    "image": {"en": "Looking for the image", "zh": "正在查找镜像"},
    "image.layers": {
        "en": "Fetching the image: {done} of {total} layers, {percent} %",
        "zh": "正在获取镜像：{total} 层中的 {done} 层，{percent}%",
    },
    "network": {"en": "Making a network for this session only", "zh": "正在为此会话建立专用网络"},
    "container": {"en": "Starting the container", "zh": "正在启动容器"},
    "probe": {"en": "Checking the GPUs from inside", "zh": "正在容器内检查 GPU"},
    "notebook": {"en": "Starting the notebook server", "zh": "正在启动笔记本服务器"},
    "busy": {
        "en": "{free} of {total} GPUs of this kind are free, and this start needs {wanted}. ",
        "zh": "此类 GPU 共 {total} 块，空闲 {free} 块，此次启动需要 {wanted} 块。",
    },
    "busy.until": {
        "en": "Enough are expected to be free at {at} UTC at the latest. ",
        "zh": "最迟预计在 UTC {at} 有足够的空闲 GPU。",
    },
    "busy.next": {
        "en": "Nothing was started and nothing is charged. Try again then, choose fewer GPUs or other hardware.",
        "zh": "没有启动任何内容，也不会计费。请届时再试，或选择更少的 GPU 或其他硬件。",
    },
    "too_few": {
        "en": "This host has {total} GPUs of this kind, fewer than the {wanted} that the profile asks for. Tell the portal's operators.",
        "zh": "此主机只有 {total} 块此类 GPU，少于该配置所需的 {wanted} 块。请告知门户运维人员。",
    },
    "refused_by_engine": {
        "en": "The container could not be started, and nothing is charged: {why}. Tell the portal's operators.",
        "zh": "容器无法启动，不会计费：{why}。请告知门户运维人员。",
    },
    "device_missing": {
        "en": "The GPUs that were granted are not usable inside the container, so the session was refused; nothing is charged. "
        "Try again; if it stays so, tell the portal's operators.",
        "zh": "分配的 GPU 在容器内不可用，因此会话被拒绝，不会计费。请重试；如果仍然如此，请告知门户运维人员。",
    },
    "ended_early": {
        "en": "The session ended while it started (status {status}), so nothing is charged. Its last lines are below.",
        "zh": "会话在启动时结束（状态 {status}），不会计费。最后的输出如下。",
    },
    "removed": {
        "en": "The session's container was removed by somebody while it started, so nothing is charged. Start it again.",
        "zh": "会话启动时其容器被移除，不会计费。请重新启动。",
    },
    "too_slow": {
        "en": "The session did not come up within {seconds} s and was stopped; nothing is charged. Its last lines are below.",
        "zh": "会话未能在 {seconds} 秒内启动，已被停止，不会计费。最后的输出如下。",
    },
    "engine_away": {
        "en": "The host that runs sessions does not answer, so nothing was started and nothing is charged. Running sessions go on. "
        "Try again in a minute.",
        "zh": "运行会话的主机没有响应，因此没有启动任何内容，也不会计费。正在运行的会话会继续。请一分钟后再试。",
    },
    "not_ready": {
        "en": "The host does not start sessions at the moment: {why}. Nothing is charged. Tell the portal's operators.",
        "zh": "主机目前不启动会话：{why}。不会计费。请告知门户运维人员。",
    },
    "no_image": {
        "en": "The image of this application could not be fetched: {why}. Nothing is charged. Tell the portal's operators.",
        "zh": "无法获取此应用的镜像：{why}。不会计费。请告知门户运维人员。",
    },
    "no_application": {
        "en": "This site has no image for the application {application}. Choose another one.",
        "zh": "本站没有应用 {application} 的镜像。请选择其他应用。",
    },
    "no_hold": {
        "en": "This start has no hold, so nothing was started.",
        "zh": "此次启动没有预留额度，因此没有启动任何内容。",
    },
    "no_login": {
        "en": "It is not known as whom this session would run, so nothing was started. Sign in again.",
        "zh": "不知道此会话以谁的身份运行，因此没有启动任何内容。请重新登录。",
    },
    "hold_used": {"en": "The session has just ended. Start it again.", "zh": "会话刚刚结束。请重新启动。"},
    "no_folder": {
        "en": "Your home folder could not be opened: {why}. Nothing is charged. Try again; if it stays so, tell the portal's operators.",
        "zh": "无法打开您的主目录：{why}。不会计费。请重试；如果仍然如此，请告知门户运维人员。",
    },
}


def say(language: str, code: str, **params: object) -> str:
    """The phrase in this language, English where there is no such."""
    phrases = PHRASES[code]
    return phrases.get(language, phrases["en"]).format(**params)


def busy_text(language: str, busy: Busy) -> str:
    """What is busy, until when, and what next."""
    if busy.total < busy.wanted:
        return say(language, "too_few", total=busy.total, wanted=busy.wanted)
    at = busy.expected_at_ms
    until = "" if at is None else say(language, "busy.until", at=instant(at))
    figures = say(language, "busy", free=busy.free, total=busy.total, wanted=busy.wanted)
    return figures + until + say(language, "busy.next")


def instant(utc_ms: int) -> str:
    """An instant for people, to the minute."""
    return f"{datetime.fromtimestamp(utc_ms / 1000, UTC):%Y-%m-%d %H:%M}"
