"""Who else uses an image, and holding it while batchdiff works with it."""
