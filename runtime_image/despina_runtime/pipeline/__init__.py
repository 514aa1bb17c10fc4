"""The corridor of one request. `corridor.py` shows its doors in their order."""
