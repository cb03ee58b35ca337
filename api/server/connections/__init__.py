"""Connections: one loop waits for all clients, however slow; threads only make answers."""
