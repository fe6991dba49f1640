"""What people see at /services/quota/: server-rendered pages over quota.service.

Everything works without JavaScript; GET changes nothing; each unsafe form carries a token bound to the session.
"""
