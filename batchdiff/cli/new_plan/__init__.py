"""The slow half of the verb plan, loaded once the manifest is known to be valid."""
