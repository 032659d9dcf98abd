"""Options that only one verb has, and parsers of option values."""
