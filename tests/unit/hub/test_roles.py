"""Least privilege, as data."""

from __future__ import annotations

from pathlib import Path

from jupyterhub.scopes import define_custom_scopes, scope_definitions

from hub import roles, settings

POWERFUL = {
    "admin:users",
    "admin:servers",
    "admin:server_state",
    "admin:auth_state",
    "users",
    "servers",
    "tokens",
    "inherit",
}


def test_the_hub_takes_our_scopes() -> None:
    if roles.ADMIN_SCOPE not in scope_definitions:
        define_custom_scopes(roles.CUSTOM_SCOPES)
    assert roles.ADMIN_SCOPE in scope_definitions


def test_services_hold_only_what_they_call(environment: dict[str, str]) -> None:
    by_service = {role["services"][0]: set(role["scopes"]) for role in roles.load_roles() if "services" in role}
    watch = {"list:users", "read:servers", "delete:servers"}
    cull = watch | {"read:users:activity", "access:servers"}
    assert by_service == {"quota": watch | {roles.ENFORCE_SCOPE}, "launcher": watch, "idle-culler": cull}
    assert roles.ENFORCE_SCOPE not in roles.PERSON_SCOPES
    assert not POWERFUL & set().union(*by_service.values())
    assert not any(service.get("admin") for service in roles.services(settings.read(environment)))


def test_review_decide_admin_and_audit_are_four_roles() -> None:
    groups = {role["groups"][0]: role["scopes"] for role in roles.load_roles() if "groups" in role}
    assert len(groups) == 4
    assert all(len(scopes) == 1 for scopes in groups.values())
    assert set(roles.PERSON_SCOPES) == {
        "access:services!service=quota",
        "custom:quota:read",
        "custom:quota:write",
        "custom:quota:exchange",
    }


def test_a_sessions_own_token_exchanges_and_can_do_nothing_else_with_the_quota_service() -> None:
    server = next(role for role in roles.load_roles() if role["name"] == "server")
    stock = {"users:activity!user", "access:servers!server"}
    assert set(server["scopes"]) - stock == {"access:services!service=quota", "custom:quota:exchange"}


def test_a_demo_role_that_is_unknown_gives_nothing() -> None:
    assert roles.groups_of(["root", ""]) == frozenset()
    assert roles.groups_of(["admin"]) == {"quota-admins", "quota-deciders", "quota-auditors"}


def test_the_gateway_is_a_route_and_no_service_of_the_hub(environment: dict[str, str]) -> None:
    site = settings.read(environment)
    assert roles.extra_routes(site) == {"/services/gateway/": "http://127.0.0.1:18002"}
    assert {service["name"] for service in roles.services(site)} == {"quota", "launcher", "idle-culler"}


def test_gateway_processes_of_their_own_take_the_route(environment: dict[str, str]) -> None:
    portal_file = Path(environment["COMMONS_PORTAL_FILE"])
    portal_file.write_text(portal_file.read_text() + '\n[hub]\ngateway_url = "http://10.1.2.3:9001"\n')
    site = settings.read(environment)
    assert roles.extra_routes(site) == {"/services/gateway/": "http://10.1.2.3:9001"}
