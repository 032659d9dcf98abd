"""Leave resources for other programs during a scan: rate limit, page cache, priority."""
