"""Use cases over ports; standard library and quota.domain only."""
