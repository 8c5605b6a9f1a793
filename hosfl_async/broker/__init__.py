"""Carrying bytes: the transport protocol, its promises, and its implementations."""
