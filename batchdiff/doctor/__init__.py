"""Facts about a machine and its folders, and their meaning for batchdiff."""
