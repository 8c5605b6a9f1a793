"""Other simulation engines on the same trivial update, each in an environment of its own."""
