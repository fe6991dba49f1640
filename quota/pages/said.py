"""What a page says after a form did its work: a code in the address, looked up here, so that no text travels in a link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request


def msgid(text: str) -> str:
    """Mark `text` for the catalogues; the template translates it."""
    return text


SAID: Final[Mapping[str, str]] = {
    "submitted": msgid("Your application is submitted. You will see the decision here and on your home page."),
    "approved": msgid("Approved. The project exists and its members can start."),
    "rejected": msgid("Rejected. The applicant reads your message on their home page."),
    "member_added": msgid("The member was added and can start right away."),
    "role_changed": msgid("The member's role was changed."),
    "member_unchanged": msgid("Nothing changed: this person has that role already."),
    "member_removed": msgid("The member was removed."),
    "not_a_member": msgid("This person was no member any more."),
    "key_revoked": msgid("The key was revoked; programs that use it are refused within a minute."),
    "left": msgid("You left the project."),
    "stopping": msgid("The session is being stopped; what is left of the hold returns in a moment."),
    "chosen": msgid("Kept. Notices that come from now on follow it."),
    "profile_saved": msgid("Your profile is saved."),
    "linked": msgid("Both sign-ins lead to this account now, and its projects came along."),
    "limits_set": msgid("The limits were set; new starts and requests follow them."),
    "refunded": msgid("The charge was given back; the statement shows it."),
    "course_made": msgid("The course is made. Add your students by a list or a link."),
    "course_changed": msgid("The course was changed."),
    "course_ended": msgid("The course is over. Grades stay readable."),
    "link_withdrawn": msgid("The link is worth nothing any more."),
    "joined": msgid("You are in the course."),
    "session_over": msgid("The session has ended; what was left of its hold is back."),
}


def said(request: Request) -> str | None:
    """The English text of the notice that the address asks for; None for none or an unknown one."""
    return SAID.get(request.query_params.get("said", ""))
