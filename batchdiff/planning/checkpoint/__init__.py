"""The results of an unfinished scan, kept so that it can be resumed."""
