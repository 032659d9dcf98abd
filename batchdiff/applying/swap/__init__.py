"""Put one file in the place of another, and retire the other."""
