"""The savings of a fleet, estimated from samples of its guests."""
