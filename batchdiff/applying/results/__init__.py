"""The results of verbs, as data for reports."""
