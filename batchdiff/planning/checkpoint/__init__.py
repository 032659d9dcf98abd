"""What an unfinished scan has found, so that it can be resumed."""
