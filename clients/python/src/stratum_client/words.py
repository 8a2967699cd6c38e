"""What the generated models are made of: messages that ignore what they do not know, and words that admit new ones."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

import msgspec

#: A moment with its zone. What has none is refused when it is read.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Word(StrEnum):
    """A value of an open list: equal to its text, and a text that is not on the list yet is a `Word` all the same.

    The API may add values at any time, so a program that compares with those it knows must expect another one.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        word = str.__new__(cls, value)
        word._name_ = value
        word._value_ = value
        return word

    @property
    def is_known(self) -> bool:
        """Whether this version of the client knows the word."""
        return self._name_ in type(self).__members__


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, or a part of one. Fields that this version does not know are ignored; None means absent."""


class SecretMessage(Message, frozen=True, kw_only=True):
    """A message that holds a secret, and does not show it to whoever prints it."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return [(name, "…" if name == "secret" and value else value) for name, value in fields]
