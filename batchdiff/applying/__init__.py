"""The half that writes: apply, restore, purge and verify, guest after guest."""
