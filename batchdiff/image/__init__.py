"""Read one image with its backing chain, whatever its format; nothing here writes."""
