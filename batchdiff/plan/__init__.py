"""The diff plan and the sidecar as data, and their way to and from files."""
