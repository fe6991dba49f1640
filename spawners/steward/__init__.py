"""The steward: a small privileged process that gives the portal's people an account, a home and their place in Slurm.

A person who never had a Unix account gets login cc-N and uid N of the reserved range (the quota service's `person` table), the same in containers
and in jobs. Order: account (NSS) first, then home, then Slurm's account and association; taken away in the reverse order. Every
step is idempotent, so that an interrupted one is asked for again. docs/howto/slurm.md; docs/decisions/0022-steward.md.

    settings.py      steward.toml, checked            books.py   who has an account: libnss-extrausers files, or a site's command
    homes.py         home folders, 0700               slurm_book.py  accounts, associations and backstops by sacctmgr
    office.py        the verbs                        client.py  the other end        __main__.py  `python -m spawners.steward steward.toml`
"""
