"""Files and their names: identity, fingerprints, durable writing."""
