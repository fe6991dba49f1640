"""`python -m tests.engine.prepare`: fetches the engine's programs and builds the tests' images, before the first test's clock runs.

Cold: some 56 MB of programs, a Debian by debootstrap, the wheels of images/base. Warm: a look at the cache, without an engine.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from tests.engine import debs
from tests.engine.engine import Engine
from tests.engine.images import ROOT, Images

SOURCES = ("images/base", "images/nbgrader_exchange", "images/gpu-pytorch", "tests/engine")


def fingerprint() -> str:
    """Everything that the images are made from."""
    hashed = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                hashed.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()


def main() -> int:
    """Make what is missing; 1 where that cannot be done."""
    stamp = debs.cache() / "prepared" / fingerprint()
    if stamp.exists() and (debs.cache() / "data").is_dir():
        return 0
    began_s = time.monotonic()
    print("preparing the container engine's programs and images (kept for the next runs) …", flush=True)
    engine = Engine()
    try:
        engine.start()
        client = engine.client(timeout_s=600)
        Images(client, engine.home).stub()
        client.close()
    except (debs.NoEngine, AssertionError, OSError) as error:
        print(f"no container engine: {error}", flush=True)
        return 1
    finally:
        engine.stop()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    for old in stamp.parent.iterdir():
        old.unlink()
    Path(stamp).touch()
    print(f"prepared ({time.monotonic() - began_s:.1f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
