"""What DSPy offers, as programs that are logged, loaded and asked like anybody's."""
