"""Run inside the built image: what a session needs is there and works, as a person's uid on a read-only root."""

import importlib.metadata
import json
import os
import pwd
import subprocess
import sys

PACKAGES = ("jupyterhub", "jupyterlab", "openai", "ipykernel", "numpy", "matplotlib", "ipywidgets", "nbgrader")


VIEWS = {"teacher": "", "student": "without_teaching", "no_course": "without_course"}


def extensions(view: str) -> list[str]:
    """nbgrader's server extensions that are on in a session whose view is what the portal says (spawners/session_view.py)."""
    code = (
        "import json; from jupyter_core.paths import jupyter_config_path as path;"
        "from jupyter_server.extension.config import ExtensionConfigManager as Manager;"
        "found = Manager(read_config_path=path()).get_jpserver_extensions();"
        "print(json.dumps([name for name, on in found.items() if on and name.startswith('nbgrader')]))"
    )
    variables = {**os.environ, "JUPYTER_CONFIG_PATH": f"/opt/commons/share/commons/{view}" if view else ""}
    said = subprocess.check_output(["commons-session", "python3", "-c", code], text=True, env=variables)
    found: list[str] = json.loads(said.splitlines()[-1])
    return found


def exchange() -> dict[str, str]:
    """Whose exchange nbgrader uses here."""
    from nbgrader.apps import NbGrader

    app = NbGrader()
    app.load_config_file()
    return {"exchange": str(app.config.ExchangeFactory.list)}


def main() -> None:
    """Print one JSON object; exit 1 with a reason where something is missing."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    kernels = json.loads(subprocess.check_output(["jupyter", "kernelspec", "list", "--json"], text=True))["kernelspecs"]
    assert "python3" in kernels, "no Python kernel"
    for program in ("jupyterhub-singleuser", "jupyter-lab", "commons-session"):
        subprocess.run(["which", program], check=True, stdout=subprocess.DEVNULL)
    import numpy
    import openai

    assert int(numpy.arange(10).sum()) == 45
    assert openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9/v1").base_url.port == 9
    told = {**{who: extensions(view) for who, view in VIEWS.items()}, **exchange()}
    name = pwd.getpwuid(os.getuid()).pw_name
    assert name == f"cc-{os.getuid()}", f"uid {os.getuid()} is called {name}"
    assert not os.access("/opt/commons", os.W_OK), "the environment can be written to"
    print(json.dumps({"python": sys.version.split()[0], "user": name, **versions, **told}))


main()
