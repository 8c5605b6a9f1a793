"""All agents in one thread and in virtual time."""
