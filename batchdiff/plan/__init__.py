"""The diff plan and the sidecar as data, and the code that reads and writes them."""
