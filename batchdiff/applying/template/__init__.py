"""The template under new overlays: its content, write protection, sidecar."""
