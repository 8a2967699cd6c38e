"""Queries about accounts and keys."""

from __future__ import annotations

from services.billing.tables import metadata

__all__ = ["metadata"]
