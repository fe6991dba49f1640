"""uvicorn's HTTP/1.1, but that an offer to go on in another protocol is passed over, as RFC 9110 (7.8) lets a server do.

httptools stops behind the head of such a request and takes its body for the other protocol's. Clients that know HTTP/2 offer it with
everything that they send over plain HTTP (h2c; Java's does): their bodies were lost. Here the request begins again without the offer.
"""

from __future__ import annotations

from array import array
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.parser = _Parser(self)

    @property
    def offered_other(self) -> bool:
        """Whether the head that was just read offers another protocol than websockets. CONNECT asks for one, too, and is refused."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT" and not self._should_upgrade()

    def on_headers_complete(self) -> None:
        if not self.offered_other:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.offered_other:
            super().on_message_complete()

    def begin_again(self) -> tuple[_Parser, bytes]:
        """A new parser, and the last head for it without what was offered in it."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        parser = self.parser = _Parser(self)
        return parser, b"".join(lines) + b"\r\n"


class _Parser(httptools.HttpRequestParser):
    def __init__(self, protocol: HttpProtocol) -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self._protocol = protocol

    def feed_data(self, data: bytes | bytearray | memoryview | array[int]) -> None:
        """Raises HttpParserError, and HttpParserUpgrade for websockets and CONNECT."""
        rest = self.fed(bytes(data))
        while rest is not None:
            parser, head = self._protocol.begin_again()
            rest = parser.fed(head + rest)

    def fed(self, data: bytes) -> bytes | None:
        """What stands behind a head that offers another protocol; None where all is read."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offered:
            if not self._protocol.offered_other:
                raise
            return data[offered.args[0] :]
        return None
