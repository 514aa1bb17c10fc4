"""The only room that talks to the API server. It reads and writes; it decides nothing."""
