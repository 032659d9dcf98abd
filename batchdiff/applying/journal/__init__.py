"""The journal of a plan, and older plans that are kept so that they can be undone."""
