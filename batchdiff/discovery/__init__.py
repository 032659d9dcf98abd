"""Find templates and their copies, by samples that are equal at the same offsets."""
