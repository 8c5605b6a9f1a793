"""Agents in asyncio and wall-clock time, over a transport."""
