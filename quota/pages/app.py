"""The pages as one ASGI application, mounted at /services/quota by quota.main. This table is the list of routes."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp

from quota.domain.errors import QuotaError
from quota.pages import (
    applications,
    course_work,
    courses,
    failures,
    home,
    keys,
    limits,
    notices,
    profile,
    projects,
    refunds,
    reviews,
    sessions,
    signin,
    statement,
    usage,
)
from quota.pages.assets import Assets
from quota.pages.desk import Desk, PageSettings, SignIn
from quota.pages.guard import SafeHeaders, TooLarge
from quota.pages.session import CookieSeal
from quota.pages.templating import Templates
from quota.pages.visit import form, page
from quota.service.outlook import Outlooks
from quota.service.services import Services


def build_pages(services: Services, sign_in: SignIn, settings: PageSettings) -> ASGIApp:
    """The application; routes are relative to /services/quota."""
    assets = Assets(settings.web_parts)
    constants: dict[str, object] = {
        "prefix": settings.prefix,
        "hub": settings.hub,
        "programme": services.programme.name,
        "asset": lambda name: assets.url(settings.prefix, name),
    }
    app = Starlette(
        routes=routes(assets),
        exception_handlers={
            QuotaError: failures.quota_error,
            HTTPException: failures.http_error,
            TooLarge: failures.too_large,
            Exception: failures.unexpected,
        },
    )
    app.state.desk = Desk(
        services,
        sign_in,
        settings,
        CookieSeal(settings.cookie_key, settings.cookie_prefix),
        Templates(constants),
        Outlooks(services),
    )
    return SafeHeaders(app)


def routes(assets: Assets) -> list[Route]:
    """Every address and method that the pages answer."""
    project, member = "/projects/{project_id}", "/projects/{project_id}/members/{hub_name}/remove"
    return [
        Route("/", page(home.show), methods=["GET"]),
        Route("/now", page(home.now), methods=["GET"]),
        Route("/notices", page(notices.show), methods=["GET"]),
        Route("/notices/put-away", form(notices.put_away), methods=["POST"]),
        Route("/notices/choices", page(notices.choices), methods=["GET"]),
        Route("/notices/choices", form(notices.choose), methods=["POST"]),
        Route("/apply", page(applications.blank), methods=["GET"]),
        Route("/apply", form(applications.submit), methods=["POST"]),
        Route("/applications/{application_id}", page(applications.show), methods=["GET"]),
        Route("/review", page(reviews.queue), methods=["GET"]),
        Route("/review/{application_id}", page(reviews.detail), methods=["GET"]),
        Route("/review/{application_id}", form(reviews.decide), methods=["POST"]),
        Route(project, page(projects.show), methods=["GET"]),
        Route(f"{project}/statement.csv", page(statement.download), methods=["GET"]),
        Route(f"{project}/usage", page(usage.show), methods=["GET"]),
        Route(f"{project}/usage.csv", page(usage.download), methods=["GET"]),
        Route(f"{project}/keys", page(keys.show), methods=["GET"]),
        Route(f"{project}/keys", form(keys.make), methods=["POST"]),
        Route(f"{project}/keys/{{key_id}}/revoke", page(keys.confirm_revocation), methods=["GET"]),
        Route(f"{project}/keys/{{key_id}}/revoke", form(keys.revoke), methods=["POST"]),
        Route("/tiers", page(usage.tiers), methods=["GET"]),
        Route(f"{project}/members", form(projects.put_member), methods=["POST"]),
        Route(member, page(projects.confirm_removal), methods=["GET"]),
        Route(member, form(projects.remove_member), methods=["POST"]),
        Route("/sessions/{hold_id}/extend", form(sessions.extend), methods=["POST"]),
        Route("/sessions/{hold_id}/keep-alive", form(sessions.keep_alive), methods=["POST"]),
        Route(f"{project}/members/{{hub_name}}/limits", page(limits.show), methods=["GET"]),
        Route(f"{project}/members/{{hub_name}}/limits", form(limits.put), methods=["POST"]),
        Route("/sessions/{hold_id}/stop", page(sessions.confirm_stop), methods=["GET"]),
        Route("/sessions/{hold_id}/stop", form(sessions.stop), methods=["POST"]),
        Route("/holds/{hold_id}/refund", page(refunds.show), methods=["GET"]),
        Route("/holds/{hold_id}/refund", form(refunds.give), methods=["POST"]),
        Route(f"{project}/course", page(courses.blank), methods=["GET"]),
        Route(f"{project}/course", form(courses.make), methods=["POST"]),
        Route("/courses/{slug}", page(courses.show), methods=["GET"]),
        Route("/courses/{slug}/settings", page(courses.settings), methods=["GET"]),
        Route("/courses/{slug}/settings", form(courses.change), methods=["POST"]),
        Route("/courses/{slug}/people", form(courses.add_people), methods=["POST"]),
        Route("/courses/{slug}/invitations", form(courses.invite), methods=["POST"]),
        Route("/courses/{slug}/end", page(courses.confirm_end), methods=["GET"]),
        Route("/courses/{slug}/end", form(courses.end), methods=["POST"]),
        Route("/courses/{slug}/feedback/{submission_id}/{notebook}", page(course_work.feedback), methods=["GET"]),
        Route("/courses/{slug}/export.tar", page(course_work.export), methods=["GET"]),
        Route("/courses/{slug}/grades.csv", page(course_work.download), methods=["GET"]),
        Route("/join", page(courses.offer), methods=["GET"]),
        Route("/join", form(courses.join), methods=["POST"]),
        Route("/profile", page(profile.show), methods=["GET"]),
        Route("/profile", form(profile.save), methods=["POST"]),
        Route("/profile/link-code", form(profile.make_code), methods=["POST"]),
        Route("/profile/link", form(profile.link), methods=["POST"]),
        Route("/oauth_callback", signin.callback, methods=["GET"]),
        Route("/sign-out", form(signin.sign_out), methods=["POST"]),
        Route("/language", signin.choose_language, methods=["POST"]),
        Route("/static/{name:path}", assets.serve, methods=["GET"]),
    ]
