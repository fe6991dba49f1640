"""The columns that every table is made of, and the names that constraints get."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, MetaData, Text, text

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# SQLite numbers rows by itself only in a column of type INTEGER.
Serial = BigInteger().with_variant(Integer(), "sqlite")


def text_column(name: str, *, null: bool = False, default: str | None = None) -> Column[str]:
    return Column(name, Text, nullable=null, server_default=default)


def int_column(name: str, *, null: bool = False, default: int | None = None) -> Column[int]:
    return Column(name, BigInteger, nullable=null, server_default=None if default is None else text(str(default)))


def check(name: str, sql: str) -> CheckConstraint:
    return CheckConstraint(sql, name=name)


def serial_column(name: str) -> Column[int]:
    return Column(name, Serial, primary_key=True, autoincrement=True)
