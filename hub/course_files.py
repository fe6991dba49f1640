"""What people may do in a formgrader that runs beside the hub while sessions run elsewhere: write below `source/`, and run nothing.

Such a formgrader is a process of the hub's account, and whoever teaches is not: loaded by its server's configuration (hub.formgrader), these
classes leave no way to run code of theirs. Invariants: no kernel starts; files are written, moved, copied and removed below `source/`
alone, where neither Python nor nbgrader looks for modules or configuration (nbgrader puts the course's folder first on its path).
"""

from http import HTTPStatus
from typing import Any, Final

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado import web

WRITABLE: Final = "source"


def is_writable(path: str) -> bool:
    """Whether a path of the contents interface lies below `source/`."""
    parts = path.strip("/").split("/")
    return len(parts) > 1 and parts[0] == WRITABLE and not {"", ".", ".."} & set(parts)


def _must_be_writable(*paths: str) -> None:
    if not all(is_writable(path) for path in paths):
        raise web.HTTPError(HTTPStatus.FORBIDDEN, f"Files are written below {WRITABLE}/ only.")


class CourseFiles(AsyncLargeFileManager):
    """The course's folder: all of it can be read, the sources written."""

    async def save(self, model: dict[str, Any], path: str = "") -> Any:
        _must_be_writable(path)
        return await super().save(model, path)  # type: ignore[no-untyped-call]

    async def rename_file(self, old_path: str, new_path: str) -> Any:
        _must_be_writable(old_path, new_path)
        return await super().rename_file(old_path, new_path)  # type: ignore[no-untyped-call]

    async def delete_file(self, path: str) -> Any:
        _must_be_writable(path)
        return await super().delete_file(path)  # type: ignore[no-untyped-call]

    async def copy(self, from_path: str, to_path: str | None = None) -> Any:
        target = from_path.rpartition("/")[0] if to_path is None else to_path
        _must_be_writable(f"{target.strip('/')}/copy")
        return await super().copy(from_path, to_path)  # type: ignore[no-untyped-call]

    async def restore_checkpoint(self, checkpoint_id: str, path: str) -> Any:
        _must_be_writable(path)
        return await super().restore_checkpoint(checkpoint_id, path)  # type: ignore[no-untyped-call]


class NoKernels(AsyncMappingKernelManager):
    """Starts none."""

    async def _refuse(self, **_: Any) -> str:
        raise web.HTTPError(HTTPStatus.FORBIDDEN, "No code runs here: start a session for that.")

    _async_start_kernel: Any = _refuse
    start_kernel: Any = _refuse
