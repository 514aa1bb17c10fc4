"""Hosting tools: the functions of Python packages over HTTP and MCP, and packages of tools that are there."""
