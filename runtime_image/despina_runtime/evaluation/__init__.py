"""An Evaluate gate's Job: what a version is worth, measured by whoever cannot be reached by its code."""
