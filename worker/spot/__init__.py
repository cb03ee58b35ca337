"""Spot machines: the notice that a cloud takes this one away."""
