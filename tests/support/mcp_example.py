"""A server as the official SDK's quick start writes one."""

from __future__ import annotations

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("Demo")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers"""
    return a + b


if __name__ == "__main__":
    server.run(transport=sys.argv[2], host="127.0.0.1", port=int(sys.argv[1]))
