"""The half that only reads: it compares guests with their template and makes the plan."""
