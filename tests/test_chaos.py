"""The chaos, in short: a few seconds of each round. In long: ``python tests/chaos.py``."""

from __future__ import annotations

import random

import pytest

from chaos import ROUNDS, play


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", ROUNDS)
def test_after_the_chaos_the_totals_are_the_servers(name):
    """``python tests/chaos.py --seed N`` draws the same acts again, with N before the dash."""
    outcome = play(name, f"{random.randrange(1_000_000)}-0", seconds=3)
    assert not outcome.wrongs, f"[{outcome.seed}] {outcome}"
