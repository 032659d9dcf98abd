"""The half that writes: overlays, verification, retirement."""
