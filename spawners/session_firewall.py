"""The host's packet rules for sessions in containers, as nftables text. Pure but for `main`, which loads or prints them.

Invariant: the rules know no bridge by name, only the prefix `cc-`, so that they hold for every session from its first packet: a
session may open a connection to the portal's own ports and to nothing else of the host, no session reaches another, nothing leaves
or comes in from elsewhere, and only the portal's users on this host may open one to a notebook. They are loaded before the
engine starts and stay over its restarts. Sessions ask their own bridge's address; the two ports lead to the portal's loopback.
Source: nft(8); the engine's own rules leave all addresses of the host open to a session, `--internal` or not.

`python -m spawners.session_firewall --ports 8081,8090 --users 990,0` loads; with `--print` it shows.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence

TABLES = ("inet cc_sessions", "ip cc_sessions_nat")

_TEXT = """\
table inet cc_sessions
delete table inet cc_sessions
table inet cc_sessions {{
  chain pre {{
    type filter hook prerouting priority raw; policy accept;
    iifname "cc-*" meta nfproto ipv6 counter drop
    iifname "cc-*" ip daddr 127.0.0.0/8 counter drop
    iifname "cc-*" fib saddr . iif oif eq 0 counter drop
  }}
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    iifname != "cc-*" accept
    ct state established counter accept
    ip daddr 127.0.0.1 tcp dport {{ {ports} }} ct status dnat ct state new counter accept
    meta l4proto tcp counter reject with tcp reset
    counter reject with icmpx admin-prohibited
  }}
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    iifname "cc-*" meta l4proto tcp counter reject with tcp reset
    iifname "cc-*" counter reject with icmpx admin-prohibited
    oifname "cc-*" counter drop
  }}
  chain output {{
    type filter hook output priority filter - 10; policy accept;
    oifname "cc-*" ct state new meta skuid != {{ {users} }} counter reject with icmpx admin-prohibited
  }}
}}
table ip cc_sessions_nat
delete table ip cc_sessions_nat
table ip cc_sessions_nat {{
  chain pre {{
    type nat hook prerouting priority dstnat - 10; policy accept;
    iifname "cc-*" fib daddr type local tcp dport {{ {ports} }} dnat to 127.0.0.1
  }}
}}
"""


def render(ports: Sequence[int], users: Sequence[int]) -> str:
    """The rules: `ports` of the portal that sessions may reach, `users` (uids) that may open connections to notebooks.

    Raises ValueError for an empty list or what is no port or uid.
    """
    if not ports or not all(0 < port < 65_536 for port in ports):
        raise ValueError("name the portal's ports that sessions may reach")
    if not users or not all(0 <= user < 2**32 for user in users):
        raise ValueError("name the users whose programs may reach notebooks: the hub's and the proxy's")
    listed = (", ".join(str(one) for one in sorted(set(numbers))) for numbers in (ports, users))
    return _TEXT.format(ports=next(listed), users=next(listed))


def load(rules: str) -> None:
    """Replace the kernel's tables by these, in one transaction. Raises CalledProcessError; needs CAP_NET_ADMIN."""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True, timeout=30)


def numbers(text: str) -> list[int]:
    """Read "8081,8090"."""
    return [int(word) for word in text.split(",")]


def main(arguments: Sequence[str]) -> int:
    """Load or print the rules."""
    parser = argparse.ArgumentParser(prog="python -m spawners.session_firewall")
    parser.add_argument("--ports", type=numbers, required=True, help="the hub's and the quota service's")
    parser.add_argument("--users", type=numbers, required=True, help="uids of hub and proxy")
    parser.add_argument("--print", action="store_true", help="show the rules and change nothing")
    options = parser.parse_args(arguments)
    try:
        rules = render(options.ports, options.users)
        if options.print:
            print(rules, end="")
        else:
            load(rules)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, subprocess.SubprocessError) as error:
        print(f"the rules could not be loaded: {getattr(error, 'stderr', None) or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
