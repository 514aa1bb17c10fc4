"""What callers speak with: HTTP, from the socket to the corridor; MCP over it; and what every port of a pod needs."""
