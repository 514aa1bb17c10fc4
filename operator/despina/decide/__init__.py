"""Pure decisions over one snapshot of the world: an Observed goes in, a Plan comes out."""
