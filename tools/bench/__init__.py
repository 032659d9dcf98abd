"""The benchmark: batchdiff and its peers on fleets made from a seed, alternating in one run."""
