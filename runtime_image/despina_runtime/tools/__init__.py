"""Tools: typed functions that are executed where it suits them and called by name from any program.

`api` is what programs use; `grid` finds an endpoint for each call; `functions` makes a contract from annotations.
`aws` and `vectors` are packages of tools, and `errors` is theirs and programs': manifests and code know these names.
"""
