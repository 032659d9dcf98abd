"""What is written down: the manifest and the plan."""
