"""What a verb did with one guest or found of it, as data for reports."""
