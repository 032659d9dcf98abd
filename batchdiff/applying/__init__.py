"""Carry out a plan: apply, restore, purge and verify, guest by guest."""
