"""Find which images are copies of which, by samples: equal ones at the same offsets."""
