"""Making a program better by what is known of its predictions: datasets, optimisers within a budget, and a verdict."""
