"""Training a network on photographs, or on pairs of the user's own."""
