"""An assignment's students' version made and released, in one process: `python -m deploy.onehost.demo_release FOLDER COURSE ASSIGNMENT`.

nbgrader's own classes, with the configuration that a session would find. Invariant: exit 0 where it is out, else 1 with nbgrader's words.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nbgrader.apps.api import NbGraderAPI
from nbgrader.apps.baseapp import NbGrader


def main(arguments: Sequence[str]) -> int:
    """Generate, then release."""
    folder, course, assignment = arguments
    app = NbGrader()
    app.load_config_file()
    app.config.CourseDirectory.root = folder
    app.config.CourseDirectory.course_id = course
    app.config.CourseDirectory.db_url = f"sqlite:///{folder}/gradebook.db"
    api = NbGraderAPI(config=app.config)
    for step in (api.generate_assignment, api.release_assignment):
        done = step(assignment)
        if not done["success"]:
            print(done["log"], done.get("error", ""), file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
