"""The signer: a process of its own on a Unix socket that alone holds a cluster's JWT key (docs/decisions/0021-signer.md).

Three verbs change something: `submit_as` gives out one person's short-lived token and a one-time ticket for exactly one job; `cancel` and
`extend` are carried out here, under the operator's identity, on jobs of the portal's accounts only. `read` fetches from a fixed list
of paths. No operator's token ever leaves the process.

    settings.py  signer.toml, checked       tokens.py   minting            tickets.py  one-time files for job_submit.lua
    audit.py     what was asked and given   office.py   the verbs          server.py   the socket, who may ask
    client.py    the other end, for spawners and the quota service         __main__.py `python -m spawners.signer signer.toml`
"""
