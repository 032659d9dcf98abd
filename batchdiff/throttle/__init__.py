"""How a scan leaves room for everything else: rate limit, page cache, priority."""
