"""The corridor of one request, in order: parse → execute under a deadline → validate → record."""
