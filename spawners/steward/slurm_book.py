"""Slurm's accounts, associations and backstops, by sacctmgr (REST cannot make a QOS on 22.05; sacctmgr(1)).

A project's account stands under `parent`; its QOS of the same name, `NoDecay,DenyOnLimit` with `GrpTRESMins=gres/gpu=N`, refuses jobs beyond
the award even if the ledger were wrong. The account has it before its first job: a job that waits under another QOS when this one comes would
wait for ever (InvalidQOS). Every method is idempotent and looks first. Raises SlurmBookError where sacctmgr fails.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

DEADLINE_S: Final = 60
_ACCOUNT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class SlurmBookError(OSError):
    """sacctmgr did not do it."""


@dataclass(frozen=True, slots=True)
class SlurmBook:
    """Calls sacctmgr and scancel with the words of steward.toml."""

    sacctmgr: Sequence[str]
    scancel: Sequence[str]
    parent: str

    def ensure(self, login: str, account: str) -> None:
        """The account with its QOS, and the person's association with it."""
        if self._rows("assoc", f"account={account}", f"user={login}", columns="account,user"):
            return
        if not self._rows("account", f"name={account}", columns="account"):
            self._do(
                "add", "account", account, f"parent={self.parent}", f"description={account}", "organization=portal"
            )
        self._qos(account)
        self._do("add", "user", login, f"account={account}")

    def remove(self, login: str, account: str) -> None:
        """Cancel the person's jobs on the account, then take the association away."""
        if not self._rows("assoc", f"account={account}", f"user={login}", columns="account,user"):
            return
        self._call([*self.scancel, f"--user={login}", f"--account={account}"])
        others = sorted({row[0] for row in self._rows("assoc", f"user={login}", columns="account")} - {account})
        if others:  # sacctmgr does not remove a default account
            self._do("modify", "user", "where", f"name={login}", "set", f"defaultaccount={others[0]}")
            self._do("delete", "user", "where", f"name={login}", f"account={account}")
        else:
            self._do("delete", "user", "where", f"name={login}")

    def accounts_of(self, login: str) -> list[str]:
        """The accounts that a person is associated with."""
        return sorted({row[0] for row in self._rows("assoc", f"user={login}", columns="account")})

    def members(self, prefix: str) -> list[tuple[str, str]]:
        """(account, login) of every association of accounts that begin with `prefix`."""
        rows = self._rows("assoc", columns="account,user")
        return sorted({(row[0], row[1]) for row in rows if row[0].startswith(prefix) and row[1]})

    def limit(self, account: str, gpu_minutes: int) -> None:
        """Refuse jobs of the account beyond so many GPU-minutes in all, past ones included."""
        tres = f"gres/gpu={gpu_minutes}"
        if self._qos(account) != tres:
            self._do("modify", "qos", "where", f"name={account}", "set", f"grptresmins={tres}")

    def _qos(self, account: str) -> str:
        """Give the account its own QOS, as its only one; the limit that it has, "" for none yet."""
        rows = self._rows("qos", f"name={account}", columns="name,grptresmins")
        if not rows:
            self._do("add", "qos", account, "flags=NoDecay,DenyOnLimit")
        wanted = {(account, account)}
        current = {
            (row[0], row[1])
            for row in self._rows("assoc", f"account={account}", columns="qos,defaultqos,user")
            if not row[2]
        }
        if current != wanted:
            self._do("modify", "account", "where", f"name={account}", "set", f"qos={account}", f"defaultqos={account}")
        return rows[0][1] if rows else ""

    def _rows(self, what: str, *where: str, columns: str) -> list[list[str]]:
        said = self._call([*self.sacctmgr, "-n", "-P", "show", what, *where, f"format={columns}"])
        return [line.split("|") for line in said.splitlines() if line]

    def _do(self, *words: str) -> None:
        self._call([*self.sacctmgr, "-i", "-Q", *words])

    def _call(self, words: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                check=False,
                timeout=DEADLINE_S,
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        except subprocess.TimeoutExpired:
            raise SlurmBookError("sacctmgr takes too long") from None
        if done.returncode != 0:
            raise SlurmBookError(f"{' '.join(words[-4:])}: {(done.stdout + done.stderr).strip()[:300]}")
        return done.stdout


def is_account(name: str, prefix: str) -> bool:
    """Whether this can be a project's account."""
    return name.startswith(prefix) and _ACCOUNT.fullmatch(name) is not None
