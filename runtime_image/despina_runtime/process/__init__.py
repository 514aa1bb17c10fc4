"""The processes that serve one program: a supervisor, its workers, and what they and the operator say to each other."""
