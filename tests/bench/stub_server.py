"""A single-user server that is up within a few hundredths of a second: answers every request as a notebook's `/api` would.

`python -S -E -s stub_server.py`, started by a hub's spawner in place of `jupyterhub-singleuser`. It says the hub's own version,
so that no hub spends time on a warning. Imports next to nothing, because its own start is part of what is measured.
"""

import _socket as socket
import os
import signal

BODY = b'{"version": "0"}'


def port() -> int:
    """The port that the hub chose: JUPYTERHUB_SERVICE_URL is http://127.0.0.1:PORT/user/NAME/."""
    return int(os.environ["JUPYTERHUB_SERVICE_URL"].split("/")[2].rpartition(":")[2])


def answer() -> bytes:
    """The one answer to everything."""
    version = os.environ.get("BENCH_HUB_VERSION", "").encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return head + b"X-JupyterHub-Version: %b\r\nContent-Length: %d\r\n\r\n%b" % (version, len(BODY), BODY)


def serve() -> None:
    """Answer one request after the other until a signal ends the process."""
    said = answer()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port()))
    listener.listen(64)
    while True:
        # `accept` is made by the module `socket`, which takes as long to import as all the rest.
        handle, _ = listener._accept()  # type: ignore[attr-defined]
        connection = socket.socket(fileno=handle)
        connection.recv(65536)
        connection.sendall(said)
        connection.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # how a stock spawner stops it: without a traceback
    serve()
