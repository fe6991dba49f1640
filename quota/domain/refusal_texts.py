"""Why something was not done: refusals, which are answers, and errors; each with what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from quota.domain.message import Message

REFUSALS: Final[Mapping[str, Message]] = {
    "insufficient_balance": Message(
        "This start needs {requested}; the project has {available}.",
        "Choose at most {fits_runtime_s}, or ask the PI for more.",
    ),
    "insufficient_balance.nothing_fits": Message(
        "This start needs {requested}; the project has {available}.",
        "Choose another project or profile, or ask the PI for more.",
    ),
    "no_allocation": Message(
        "{project} has no allocation that pays for this now.", "Choose another project, or apply for an allocation."
    ),
    "no_allocation.later": Message(
        "The allocation of {project} starts on {starts_on}.", "Choose another project, or start after that day."
    ),
    "frozen": Message("The allocation of {project} is frozen.", "Ask the programme's administrators."),
    "not_a_member": Message("You are not a member of {project}.", "Ask its PI to add you."),
    "unknown_profile": Message("There is no such profile.", "Choose one of those offered."),
    "runtime_too_long": Message(
        "{runtime_s} is longer than this profile allows.", "Choose at most {longest_runtime_s}."
    ),
    "project_suspended": Message("{project} is suspended.", "Ask its PI or the programme's administrators."),
    "limit_reached": Message("A limit on your use is reached.", "Ask a lead of the project."),
    "limit_reached.person_sessions": Message(
        "You have as many sessions as one person may have at once.", "Stop one of them first."
    ),
    "limit_reached.person_gpus": Message(
        "You have as many GPUs in use as one person may have at once.", "Stop a session, or choose fewer GPUs."
    ),
    "limit_reached.project_sessions": Message(
        "The project has as many sessions as it may have at once.", "Wait until one ends, or ask a lead."
    ),
    "limit_reached.project_gpus": Message(
        "The project has as many GPUs in use as it may have at once.",
        "Choose fewer GPUs, or wait until a session ends.",
    ),
    "limit_reached.member": Message(
        "This start needs {requested}; your share of the project has {available} left.",
        "Choose at most {fits_runtime_s}, or ask a lead of the project.",
    ),
    "limit_reached.member.nothing_fits": Message(
        "This start needs {requested}; your share of the project has {available} left.",
        "Ask a lead of the project (of a course: an instructor) for a larger share, or choose hardware that costs no GPU-hours.",
    ),
    "limit_reached.day": Message(
        "This start needs {requested}; of today's GPU-hours you have {available} left.",
        "Choose at most {fits_runtime_s}, or wait for tomorrow (UTC).",
    ),
    "limit_reached.day.nothing_fits": Message(
        "This start needs {requested}; of today's GPU-hours you have {available} left.",
        "Wait for tomorrow (UTC), or choose hardware that costs no GPU-hours.",
    ),
    "limit_reached.member_day": Message(
        "This start needs {requested}; of your share of the project for today you have {available} left.",
        "Choose at most {fits_runtime_s}, wait for tomorrow (UTC), or ask a lead of the project.",
    ),
    "limit_reached.member_day.nothing_fits": Message(
        "This start needs {requested}; of your share of the project for today you have {available} left.",
        "Wait for tomorrow (UTC), ask a lead of the project, or choose hardware that costs no GPU-hours.",
    ),
    "limit_reached.rescue": Message(
        "This start needs more of today's time for rescue sessions than you have left.",
        "Choose at most {fits_runtime_s}, or wait for tomorrow (UTC).",
    ),
    "already_running": Message("This session is running already.", "Open or stop it first."),
    "backend_refused": Message(
        "The session's end could not be moved: {why}.", "The old end stands; what was set aside is given back."
    ),
    "no_pi": Message("{project} has had no PI for too long.", "Ask the programme to name one."),
    "allocation_ended": Message("The allocation of {project} has ended.", "The session runs to its end; renew it."),
    "rescue_used_up": Message(
        "The rescue sessions of today are used up ({used_s}).", "Choose at most {fits_runtime_s}, or wait for tomorrow."
    ),
    "model_not_allowed": Message("The project may not use this model.", "Choose one of those listed."),
    "would_take_back_used": Message(
        "That would take back what is charged or held: at most {available} can be taken.",
        "Take back less, or stop running sessions first.",
    ),
    "refund_exceeds_charged": Message(
        "That is more than was charged: at most {available} can be refunded.", "Refund less."
    ),
    "course_not_started": Message(
        "{course} starts at {when}.", "Come back then; your teachers can start before, to prepare."
    ),
    "course_over": Message(
        "{course} ended at {when}, so nothing starts on it any more.",
        "Your grades stay on the course's page; get at your files with a rescue session, or choose another project.",
    ),
    "assignment_closed": Message(
        "{assignment} closed on {when} by the portal's clock; nothing is taken any more.",
        "Ask an instructor of the course.",
    ),
    "grading_unpaid": Message(
        "Executing a submission sets {requested} aside, and {course} has {available} left. Nothing was executed.",
        "Ask for more on the project's page; then autograde again. What is graded already stays.",
    ),
}

ERRORS: Final[Mapping[str, Message]] = {
    "invalid_request": Message("Some fields cannot be used.", "Correct the fields named and send again."),
    "invalid_json": Message("The body is not valid JSON.", "Send one JSON object in UTF-8."),
    "not_signed_in": Message("You are not signed in.", "Sign in, or send a valid token."),
    "forbidden": Message("You may not do this.", "Ask somebody whose role allows it."),
    "own_application": Message("Nobody decides on their own application.", "Leave it to somebody else."),
    "own_project": Message("Nobody changes the award of their own project.", "Leave it to another admin."),
    "signed_out": Message(
        "Your sign-in provider does not vouch for you any more.", "Sign in again; if that fails, ask your institution."
    ),
    "cross_site": Message("The request came from another site.", "Open the page here and send it again."),
    "unknown_project": Message("There is no such project, or none that you may see.", "Look it up in your projects."),
    "unknown_application": Message("There is no such application.", "Look it up in your applications."),
    "unknown_hold": Message("There is no such session.", "Look it up in your sessions."),
    "unknown_person": Message("Nobody here has that user name.", "They must have signed in once."),
    "unknown_allocation": Message("There is no such allocation.", "Look it up in the project."),
    "unknown_adjustment": Message("There is no such adjustment.", "Look it up in the statement."),
    "unknown_key": Message("There is no such key, or none that you may see.", "Look it up on the project's page."),
    "unknown_invitation": Message(
        "This link is not good any more: it was replaced, taken back or is too old.",
        "Ask the instructor for a new one.",
    ),
    "unknown_assignment": Message("This assignment is not out.", "Look at the course's list of assignments."),
    "unknown_course": Message("There is no such course, or none that you are in.", "Ask its instructor for the link."),
    "unknown_submission": Message("There is no such submission, or none that you may see.", "List your submissions."),
    "unknown_feedback": Message("There is no feedback yet.", "Try again once it is released."),
    "unknown_grading": Message("There is no such run of yours in this course.", "Autograde again."),
    "unknown_upload": Message("There is no such upload of yours.", "Announce it again."),
    "unknown_route": Message("There is nothing at this address.", "See the interface's description, openapi.json."),
    "method_not_allowed": Message("This address does not take that method.", "See openapi.json."),
    "id_conflict": Message("This id was used for something else.", "Send it again under a new id."),
    "wrong_state": Message("Somebody was faster, or this step is not possible now.", "Reload and look again."),
    "already_member": Message("This person is in the project already.", "Change their role instead."),
    "wrong_offset": Message("The upload goes on at byte {offset}.", "Send the rest from there."),
    "stale": Message("This changed while you looked at it.", "Reload and look again."),
    "stale_epoch": Message(
        "Another process has taken this one's place.", "Nothing was changed. End this process; the newer one goes on."
    ),
    "too_large": Message("The request is too large.", "Send at most {limit_bytes} bytes."),
    "too_slow": Message("The request's body did not arrive in time.", "Send it again."),
    "too_many": Message("Too many requests at once.", "Wait a moment and try again."),
    "unavailable": Message("Something that this needs does not answer just now.", "Nothing was lost; try again soon."),
    "identity_pending": Message("We are still learning who you are.", "Try again in a moment."),
    "internal": Message("Something went wrong on our side.", "Try again; if it stays, report the id {incident}."),
}
