"""Options that only one verb has, and that need no other module of the command line."""
