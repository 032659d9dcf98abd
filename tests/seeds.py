"""Random numbers for tests that can be had again: ``BATCHDIFF_SEED=... pytest ...`` repeats a failed run."""

from __future__ import annotations

import os
import random


def seeded() -> random.Random:
    """A new source of random numbers; its seed is printed, and pytest shows it where the test fails."""
    seed = int(os.environ.get("BATCHDIFF_SEED") or random.SystemRandom().getrandbits(32))
    print(f"BATCHDIFF_SEED={seed}")
    return random.Random(seed)
