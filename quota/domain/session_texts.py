"""What is told of sessions: the quote, why one ended, notices and their mails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from quota.domain.message import Message

QUOTES: Final[Mapping[str, Message]] = {
    "quote": Message("{gpus} GPU × {runtime_s} + {margin_s} margin = {amount} held; unused returns; leaves {leaves}"),
    "quote.share": Message(
        "{gpus} GPU × {runtime_s} + {margin_s} margin = {amount} held; unused returns; leaves {leaves} of your share"
    ),
    "quote.free": Message("No GPU × {runtime_s}: costs no GPU-hours"),
    "quote.unpaid": Message("{gpus} GPU × {runtime_s} + {margin_s} margin = {amount}"),
}

ENDS: Final[Mapping[str, Message]] = {
    "end.exited": Message("The notebook server ended by itself."),
    "end.stopped": Message("Stopped on request."),
    "end.deadline": Message("The chosen runtime was over."),
    "end.never_started": Message("It never started; nothing was charged."),
    "end.lost": Message("Its host was lost; charged to the last sign of life."),
    "end.device_missing": Message("The GPUs it was given are not there; nothing was charged."),
    "end.out_of_memory": Message("It used more memory than its profile has."),
    "end.cancelled": Message("Cancelled while it waited; nothing was charged."),
    "end.by": Message("Stopped by {by}."),
    "end.by_why": Message("Stopped by {by}: {reason}"),
    "end.why": Message("Stopped: {why}."),
}

NOTICES: Final[Mapping[str, Message]] = {
    "your_session": Message("Your session “{profile_title}” ({server_name})"),
    "your_session.unnamed": Message("Your session “{profile_title}”"),
    "why.idle": Message("it was idle for too long"),
    "why.suspended": Message("its project was suspended"),
    "why.revoked": Message("its allocation was revoked"),
    "why.removed": Message("you are no longer a member of its project"),
    "why.role_lowered": Message("your role in its project was lowered"),
    "why.signed_out": Message("your sign-in provider does not vouch for you any more"),
    "why.portal": Message("the portal was shut down"),
    "why.pending_too_long": Message("it waited too long in the queue"),
    "why.": Message("the portal's log says why"),
    "notice.ending": Message(
        "{session_title} ends at {ends_at}, in {left_s}.",
        "Save your work. You can extend it while the profile's longest runtime and the balance allow it.",
    ),
    "notice.ending.why": Message(
        "{session_title} ends at {ends_at}, in {left_s}: {why}.", "Save your work. Your files are kept."
    ),
    "notice.idle": Message(
        "{session_title} is idle and will be stopped at {stops_at}.", "Run something in it, or keep it alive."
    ),
    "notice.stopped": Message(
        "{session_title} was stopped: {why}.", "Your files are kept; what was left of its hold is back."
    ),
    "notice.stopped.by": Message(
        "{session_title} was stopped by {by}.", "Your files are kept; what was left of its hold is back."
    ),
    "notice.stopped.by_why": Message(
        "{session_title} was stopped by {by}: {reason}", "Your files are kept; what was left of its hold is back."
    ),
    "notice.extended": Message("{session_title} now ends at {ends_at}; {amount} more is held.", "Unused time returns."),
    "notice.extension_refused": Message(
        "{session_title} was not extended and ends at {ends_at}: {refusal}", "{refusal_next}"
    ),
    "notice.pending": Message(
        "{session_title} has waited {waited_s} in the queue.", "Keep waiting, or cancel it; waiting costs nothing."
    ),
    "notice.pending_over": Message(
        "{session_title} was cancelled after {waited_s} in the queue; nothing was charged.",
        "Start it again, or choose smaller hardware.",
    ),
    "notice.ready": Message("{session_title} is ready and runs until {ends_at}.", "Open it from your home page."),
    "notice.suspended": Message(
        "{project} is suspended: nothing new starts.", "Ask its PI or the programme's administrators."
    ),
    "notice.suspended.why": Message(
        "{project} is suspended, nothing new starts: {reason}", "Ask its PI or the programme's administrators."
    ),
    "notice.removed": Message(
        "You are no longer a member of {project}.", "Your files are kept. Ask its PI if this is a mistake."
    ),
    "notice.low": Message(
        "{percent} % of what {project} was awarded is used: {available} of {awarded} is left.",
        "Plan ahead, or ask for more in time.",
    ),
    "notice.exhausted": Message(
        "Nothing of the {awarded} of {project} is available: {charged} charged, {held} held.",
        "What runs goes on to its end; what is held and not used comes back. Ask for more to start again.",
    ),
    "notice.overdrawn": Message(
        "{project} has used more than it was awarded: {charged} of {awarded}.",
        "Nothing new starts until the balance is above zero.",
    ),
}

MAILS: Final[Mapping[str, Message]] = {
    "mail.greeting": Message("Dear {name},"),
    "mail.more": Message("Your sessions and projects: {url}"),
    "mail.choose": Message("You get this mail because of what you chose here: {url}"),
    "mail.sent_by": Message("Sent by {programme}. Answers to this address are not read."),
}
