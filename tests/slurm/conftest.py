"""The lab of all tests here."""

from tests.lab import lab as lab  # noqa: PLC0414 - to pytest, and to mypy an export
