"""What was answered, as data: recorded once, for whoever wants to know."""
