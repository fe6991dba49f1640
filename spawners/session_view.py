"""Which of nbgrader's parts a session's JupyterLab shows: none where no course pays, nothing of teachers for who teaches no course. Pure.

The same two folders of configuration (images/nbgrader_exchange) for every backend: in the checkout, in the image, and where the package
is installed on a cluster's nodes. They spare people what they could do nothing with; what anybody may do, the portal decides.
Source: jupyter_core 5 (JUPYTER_CONFIG_PATH comes first), jupyterlab_server 2 (`labconfig/page_config.json`, disabledExtensions).
"""

import os
from collections.abc import Mapping
from typing import Final

COURSE: Final = "COMMONS_COURSE"  # the course that pays
TEACHES: Final = "COMMONS_TEACHES"  # set for who is instructor or grader of any course
WITHOUT_COURSE: Final = "without_course"
WITHOUT_TEACHING: Final = "without_teaching"
INSTALLED: Final = "share/commons"  # below the environment that the exchange's package is installed in
_CONFIG_PATH: Final = "JUPYTER_CONFIG_PATH"


def hiding_folder(environment: Mapping[str, str]) -> str:
    """The folder that hides what is of no use in a session; "" hides nothing."""
    if not environment.get(COURSE):
        return WITHOUT_COURSE
    return "" if environment.get(TEACHES) else WITHOUT_TEACHING


def with_view(environment: Mapping[str, str], root: str) -> dict[str, str]:
    """The session's environment with its view's folder below `root` before what is configured otherwise."""
    folder = hiding_folder(environment)
    paths = [f"{root}/{folder}" if folder else "", environment.get(_CONFIG_PATH, "")]
    path = os.pathsep.join(one for one in paths if one)
    return {**environment, _CONFIG_PATH: path} if path else dict(environment)
