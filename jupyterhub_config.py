"""Wires the hub: settings, sign-in, spawner, admission, pages, proxy. Every decision stands in `hub`; a site appends its own traitlets below.

Invariant: the hub is a singleton that may restart at any time: servers and routes outlive it, secrets come from files.
"""

import sys
from typing import TYPE_CHECKING, Any

from hub import addresses, admission, courses, memory, pages, roles, settings, sign_in
from hub.authenticators import PortalAuthenticator
from hub.content_security import Guarded
from hub.database import HubDatabase
from hub.fence import HubFence
from hub.known_names import KnownNames
from hub.language import Localized
from hub.people import People
from hub.rescue import Rescue
from hub.revalidation import Revalidation
from hub.routes import RouteCheck
from hub.spawn_form import form_reader
from hub.turns import Turns
from hub.waits import Waits
from quota.client import QuotaClient
from spawners import slurm_wiring
from spawners.dispatch import DispatchSpawner
from spawners.settings import SettingsError
from spawners.start_timeout import start_timeout_s

if TYPE_CHECKING:

    def get_config() -> Any: ...


try:
    site = settings.read()
except SettingsError as error:
    sys.stderr.write("\n".join([*error.lines, ""]))
    sys.exit(2)

client = QuotaClient(site.quota_url, site.secrets.hub_credential, deadline_s=site.tables.hub.quota_deadline)
people = People(client, known_names=KnownNames(site.data / "hub" / "known_names.sqlite"))
fence, rescue = HubFence(client), Rescue(client, site.data / "hub" / "rescue.sqlite")
teaching = courses.Courses(client, site)
database = HubDatabase(site.data / "hub" / "jupyterhub.sqlite")
c = get_config()

c.merge(addresses.traits(site))
c.JupyterHub.db_url = database.url
c.JupyterHub.cookie_secret = site.secrets.cookie_secret
c.CryptKeeper.keys = [site.secrets.crypt_key]
c.JupyterHub.default_url = site.quota_path

# The proxy is a process of its own, and sessions outlive the hub.
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = f"http://{settings.LOOPBACK}:{site.proxy_api_port}"
c.ConfigurableHTTPProxy.auth_token = site.secrets.proxy_token
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
# A notebook that was starting when the hub died waits for the hub, and the hub would wait for the notebook.
c.JupyterHub.init_spawners_timeout = 1

turns = Turns()
queue_of = slurm_wiring.queues(site.slurm)
waits = Waits(site.profiles, queue_of)
c.JupyterHub.authenticator_class = PortalAuthenticator
c.PortalAuthenticator.demo = sign_in.demo(site)
c.PortalAuthenticator.providers = sign_in.providers(site)
c.PortalAuthenticator.outage_grace_s = site.tables.sign_in.outage_grace
c.PortalAuthenticator.people = people
c.PortalAuthenticator.turns = lambda: turns
c.PortalAuthenticator.pages = lambda: [
    *pages.handlers(pages.doors(site, client, people, rescue, waits, turns), fence),
    *courses.handlers(teaching),
]
revalidation, routes = Revalidation(people, site.tables.sign_in.refresh), RouteCheck()
# Functions, since traitlets copies what a bound method is bound to.
c.PortalAuthenticator.watches = [
    lambda *them: revalidation.start(*them),
    lambda app, _: teaching.start(app),
    lambda app, _: routes.start(app),  # a restarted proxy has its routes back within seconds
    lambda *_: memory.set_aside(),
]
c.Authenticator.any_allow_config = True  # PortalAuthenticator.check_allowed decides, by portal.toml
c.Authenticator.enable_auth_state = True
c.Authenticator.manage_groups = True
c.Authenticator.auth_refresh_age = site.tables.sign_in.refresh
c.Authenticator.auth_refresh_strict = True
c.Authenticator.refresh_pre_spawn = True

c.JupyterHub.spawner_class = DispatchSpawner
c.DispatchSpawner.profiles = site.profiles
c.DispatchSpawner.data_folder = str(site.data)
c.DispatchSpawner.replaced = lambda: fence.replaced()
c.DispatchSpawner.turn = lambda: turns.take()
c.LocalSpawner.start_deadline_s = site.local.start_deadline
c.LocalSpawner.stop_grace_s = site.local.stop_grace
c.GPUContainerSpawner.containers = site.containers
c.GPUContainerSpawner.profiles = site.profiles
c.GPUContainerSpawner.hub_port, c.GPUContainerSpawner.quota_port = site.hub_port, site.quota_port
c.Spawner.options_form = "chooser"  # rendered by hub.pages.ChooserHandler
c.Spawner.options_from_form = form_reader(site.profiles)
c.Spawner.pre_spawn_hook = admission.pre_spawn_hook(client, people, site, rescue, turns)
c.Spawner.post_stop_hook = admission.post_stop_hook(client)
c.Spawner.poll_interval = 10
c.Spawner.http_timeout = 60
c.DispatchSpawner.start_timeout = start_timeout_s(site.local, site.containers, site.slurm)
c.merge(slurm_wiring.traits(site.slurm, site.profiles, queue_of))
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = site.tables.hub.named_servers

c.JupyterHub.custom_scopes = roles.CUSTOM_SCOPES
c.JupyterHub.extra_user_scopes = set(roles.PERSON_SCOPES)
c.JupyterHub.load_roles = roles.load_roles()
c.JupyterHub.services = roles.services(site)

database.start()
# A thread that reads a cluster's answer gives the event loop its turn of the interpreter after half a millisecond, not after five.
sys.setswitchinterval(0.0005)
fence.start()  # of two hubs by mistake only this one, the newer, is listened to
rescue.start()

c.JupyterHub.tornado_settings = {"headers": {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}}
c.JupyterHub.template_paths = [str(pages.TEMPLATES)]
c.JupyterHub.jinja_environment_options = {"extensions": [Localized, Guarded]}
c.JupyterHub.template_vars = pages.template_variables(site, client)
