from msb_cache.queries.as_of import position_in


def test_positions() -> None:
    assert position_in("@0") == 0
    assert position_in(" @123 ") == 123
    for text in ("123", "2026", "@", "@-1", "@1.5", "@x", "@" + "9" * 20, "@٣"):
        assert position_in(text) is None
