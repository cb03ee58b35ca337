"""Tools for developers that are no part of the service."""
