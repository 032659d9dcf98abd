"""Options that only one verb has, and the values of options; they need no other module of cli."""
