"""Pure builders: what the cluster should hold for a program. No clocks, no clients, no awaiting."""
