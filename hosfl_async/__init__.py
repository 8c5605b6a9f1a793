"""Asynchronous hybrid-order split federated learning."""
