"""The half that only reads: compares guests with their template and makes the plan."""
