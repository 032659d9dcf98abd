"""Images with their backing chains, in every supported format; nothing here writes to them."""
