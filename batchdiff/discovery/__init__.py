"""Find which images are copies of which, by samples that are equal at the same offsets."""
