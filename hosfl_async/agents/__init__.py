"""Decisions: pure state machines that know no clock, socket, random number or tensor library."""
