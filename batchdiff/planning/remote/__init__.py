"""Scan on several hosts that mount the same storage, by the workers of a Dask scheduler."""
