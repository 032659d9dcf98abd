"""Share equal blocks of a guest with the template, in place."""
