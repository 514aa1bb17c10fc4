"""kopf wiring only: events in, keys out."""
