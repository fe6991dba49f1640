"""`python -m hub.idle_culler`: jupyterhub-idle-culler with the portal's judge; the hub runs it as its service `idle-culler`.

The culler looks every `hub.idle_look`, asks `hub.idle` about each ready server and stops those that it is told to; the limit is the
profile's, so its own timeout means nothing. It ends with the hub (PR_SET_PDEATHSIG, set by hub.roles).
"""

import logging
import os
import sys
from functools import partial

from jupyterhub_idle_culler import IdleCuller

from hub import settings
from hub.addresses import notebook_host
from hub.idle import arbiter
from quota.client import QuotaClient
from spawners.settings import SettingsError


def main() -> int:
    """Look until the hub ends it."""
    try:
        site = settings.read()
    except SettingsError as error:
        print("\n".join(error.lines), file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a notebook and minute says nothing
    client = QuotaClient(site.quota_url, site.secrets.hub_credential, deadline_s=site.tables.hub.quota_deadline)
    culler = IdleCuller.instance(config_file="")
    culler.initialize([])
    culler.timeout = culler.cull_every = site.tables.hub.idle_look
    # Not by a configuration object: that is copied, connections and all.
    culler.cull_arbiter_hook = arbiter(
        site.proxy_url or site.public_url, os.environ["JUPYTERHUB_API_TOKEN"], client, partial(notebook_host, site)
    )
    culler.start()
    return 0


if __name__ == "__main__":
    sys.exit(main())
