"""The rules in words, as the running code holds them: an explanation that cannot be out of date."""

from __future__ import annotations

from inspect import cleandoc
from types import ModuleType

from services.signals.model import SignalType
from services.signals.rules import dislocation, key_cross, move, steam, sync

_RULES: dict[SignalType, ModuleType] = {
    SignalType.MOVE: move,
    SignalType.KEY_CROSS: key_cross,
    SignalType.MULTIBOOK_SYNC: sync,
    SignalType.STEAM: steam,
    SignalType.DISLOCATION: dislocation,
}


def specification(signal_type: SignalType) -> str:
    """What makes a signal of this type, in whole sentences."""
    return cleandoc(_RULES[signal_type].__doc__ or "")
