"""Put one file in the place of another, and retire that one."""
