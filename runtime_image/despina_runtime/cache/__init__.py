"""Answers that are given again without asking: three tiers behind one store. JSON bytes only, nothing is unpickled."""
