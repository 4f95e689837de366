from __future__ import annotations

from tests.monitoring.rules import faster, shorter


def test_a_faster_rule_differs_in_lengths_of_time_only() -> None:
    """Waits, ranges, offsets and marked seconds shrink; thresholds, counts and words stay."""
    rule = {
        "alert": "Slow",
        "expr": "rate(a_total[5m]) > 60 and b offset 1h30m > 5 and time() - c > 90 # seconds\n",
        "for": "1m",
        "keep_firing_for": "30s",
        "annotations": {"summary": "slow for [5m]"},
    }
    group = {"name": "slow", "interval": "15s", "rules": [rule]}
    (changed,) = faster({"groups": [group]}, 60)["groups"]
    assert changed["interval"] == "250ms"
    assert changed["rules"] == [
        {
            **rule,
            "expr": "rate(a_total[5000ms]) > 60 and b offset 90000ms > 5"
            " and time() - c > 1.5 # seconds\n",
            "for": "1000ms",
            "keep_firing_for": "500ms",
        }
    ]
    assert shorter("1ms", 60) == "1ms"
