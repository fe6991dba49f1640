"""nbgrader's exchange over a portal's HTTP interface, through the traits of nbgrader's own ExchangeFactory (nbgrader 0.9.6).

Who somebody is, the portal reads from the session's token; nothing here claims a name. `configure` sets it up.
"""
