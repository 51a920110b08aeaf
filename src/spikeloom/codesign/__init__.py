"""Loops over designs: what the machine and the network cost together, and which pair is best."""
