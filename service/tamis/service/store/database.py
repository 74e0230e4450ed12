"""The one door to the database."""

from __future__ import annotations


class Database:
    """Engine, transactions, schema."""

    def __init__(self, url: str) -> None:
        self.url = url

    def migrate(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
