"""What is wrong with a field of a form or a body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from quota.domain.message import Message

FIELDS: Final[Mapping[str, Message]] = {
    "field.not_a_bundle": Message("is no plain tar archive"),
    "field.not_a_plain_file": Message("holds something that is no plain file, such as a link"),
    "field.too_many_files": Message("holds too many files"),
    "field.path_leads_elsewhere": Message("holds a path that leads out of its folder or cannot be used everywhere"),
    "field.path_stands_twice": Message("holds a path twice"),
    "field.other_bytes": Message("is not the hash of what was sent; send it again from the start"),
    "field.assignment_name": Message(
        "needs 1 to 64 of letters, digits, '.', '_' and '-', beginning with a letter or digit"
    ),
    "field.not_in_the_course": Message("is nobody of this course"),
    "field.required": Message("is required"),
    "field.unknown": Message("is not known here"),
    "field.wrong_type": Message("has the wrong type"),
    "field.malformed": Message("is not well formed"),
    "field.out_of_range": Message("is out of range"),
    "field.not_a_number": Message("is not a decimal number"),
    "field.not_a_date": Message("is not a date such as 2026-01-31"),
    "field.length_3_200": Message("needs 3 to 200 characters"),
    "field.length_3_500": Message("needs 3 to 500 characters"),
    "field.length_10_5000": Message("needs 10 to 5,000 characters"),
    "field.nothing_asked": Message("ask for GPU-hours or tokens"),
    "field.nothing_awarded": Message("award GPU-hours or tokens, or reject"),
    "field.ends_before_start": Message("must be later than the start"),
    "field.too_long": Message("is too long"),
    "field.in_the_past": Message("is in the past"),
    "field.too_many_keys": Message("you have as many keys in this project as one person may; revoke one first"),
    "field.too_many_open": Message("you have as many undecided applications as one person may; wait for a decision"),
    "field.zero": Message("must not be zero"),
    "field.not_utf8": Message("contains characters that cannot be stored"),
    "field.course_slug": Message("needs 2 to 40 of a-z, 0-9 and single hyphens, beginning with a letter"),
    "field.slug_taken": Message("is the name of another course"),
    "field.not_a_zone": Message("is not a time zone such as Europe/Berlin or UTC"),
    "field.no_course_role": Message("is neither student nor grader"),
    "field.listed_twice": Message("is listed twice; the first line counts"),
    "field.nobody": Message("is nobody's user name here; they must have signed in once"),
    "field.is_instructor": Message("is an instructor of this course already"),
    "field.list_too_long": Message("has more than 2,000 lines; send it in parts"),
}
