"""Find the other users of an image, and hold it while batchdiff works with it."""
