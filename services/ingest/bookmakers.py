"""Who counts as a bookmaker: the provider's keys that are admitted, and what they used to be called. Pure.

Only this table decides. A key that is not here is quarantined: its quotes are counted under its name, and no rule sees
them.
"""

from __future__ import annotations

from types import MappingProxyType


def _keys(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: The regions the provider sells, each with its books. A book may sit in several; it is one book by its key.
BOOKS_BY_REGION = MappingProxyType(
    {
        "us": _keys(
            "betmgm betonlineag betrivers betus bovada draftkings fanatics fanduel lowvig mybookieag williamhill_us"
        ),
        "us2": _keys(
            "ballybet betanysports betparx espnbet fliff hardrockbet hardrockbet_az hardrockbet_fl hardrockbet_oh rebet"
        ),
        "us_dfs": _keys("betr_us_dfs pick6 prizepicks underdog"),
        "us_ex": _keys("betopenly kalshi novig polymarket prophetx"),
        "uk": _keys(
            "betfair_ex_uk betfair_sb_uk betfred_uk betvictor betway boylesports casumo coral grosvenor ladbrokes_uk "
            "leovegas livescorebet matchbook paddypower skybet smarkets sport888 unibet_uk virginbet williamhill"
        ),
        "eu": _keys(
            "betanysports betclic_fr betfair_ex_eu betonlineag betsson betvictor codere_it coolbet everygame gtbets "
            "leovegas_se marathonbet matchbook mybookieag nordicbet onexbet parionssport_fr pinnacle pmu_fr sport888 "
            "suprabets tipico_de unibet_fr unibet_it unibet_nl unibet_se williamhill winamax_de winamax_fr"
        ),
        "fr": _keys("betclic_fr netbet_fr parionssport_fr pmu_fr unibet_fr winamax_fr"),
        "se": _keys(
            "atg_se betinia_se betmgm_se betsson campobet_se expekt_se hajper_se leovegas_se mrgreen_se nordicbet "
            "sport888_se svenskaspel_se unibet_se"
        ),
        "au": _keys(
            "bet365_au betfair_ex_au betr_au betright dabble_au ladbrokes_au neds playup pointsbetau sportsbet tab "
            "tabtouch unibet"
        ),
    }
)

#: Books that closed or left the provider. Recorded seasons quote them, and they were real markets then.
RETIRED = frozenset(
    _keys("betfair circasports foxbet pointsbetus sisportsbook sugarhouse superbook twinspires unibet_us wynnbet")
)

#: A book that goes on under another key keeps one history: old key to present key.
RENAMED = MappingProxyType({"barstool": "espnbet", "betclic": "betclic_fr", "intertops": "everygame"})

CANONICAL = RETIRED.union(*BOOKS_BY_REGION.values())


def canonical_book(key: str) -> str | None:
    """The one key of a book, or None for a book that nobody has admitted."""
    present = RENAMED.get(key, key)
    return present if present in CANONICAL else None
