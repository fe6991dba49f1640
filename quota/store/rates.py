"""Charge rates: dated, exact, never changed once published."""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction

from sqlalchemy import Connection, select

from quota.domain.errors import IdConflict
from quota.domain.rates import ChargeRate
from quota.store.instants import from_us, to_us
from quota.store.tables import charge_rate


class SqlRates:
    """`quota.service.ports.Rates`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put(self, rate: ChargeRate) -> None:
        """Publish a rate; the same again changes nothing, another value for the same instant raises IdConflict."""
        from_us_ = to_us(rate.valid_from)
        known = self._connection.execute(
            select(charge_rate.c.numerator, charge_rate.c.denominator).where(
                charge_rate.c.hardware == rate.hardware, charge_rate.c.valid_from_us == from_us_
            )
        ).first()
        if known is not None:
            if Fraction(known.numerator, known.denominator) != rate.rate:
                raise IdConflict(
                    "a rate of this hardware and day is published with another value", hardware=rate.hardware
                )
            return
        self._connection.execute(
            charge_rate.insert().values(
                hardware=rate.hardware,
                valid_from_us=from_us_,
                numerator=rate.rate.numerator,
                denominator=rate.rate.denominator,
            )
        )

    def at(self, hardware: str, at: datetime) -> ChargeRate | None:
        """The rate that was the latest at an instant."""
        query = (
            select(charge_rate)
            .where(charge_rate.c.hardware == hardware, charge_rate.c.valid_from_us <= to_us(at))
            .order_by(charge_rate.c.valid_from_us.desc())
            .limit(1)
        )
        row = self._connection.execute(query).first()
        if row is None:
            return None
        return ChargeRate(row.hardware, Fraction(row.numerator, row.denominator), from_us(row.valid_from_us))
