"""The template of overlays: its content, write protection and sidecar."""
