"""Tools: typed functions that are executed where it suits them and called by name from any program.

`api` is what programs use; `grid` finds an endpoint for each call; `host` serves the functions of Python packages.
`aws` and `vectors` are such packages.
"""
