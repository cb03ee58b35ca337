"""Spot machines: watches for the notice that the cloud reclaims this machine."""
