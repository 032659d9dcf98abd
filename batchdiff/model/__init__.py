"""The manifest, the plan and the sidecar: how they are read, checked and written."""
