"""Reports of plans and results, as text for people and as JSON for programs."""
