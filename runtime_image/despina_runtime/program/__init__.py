"""One DSPy program: writing it to a registry, loading it, describing its interface, and trying it out."""
