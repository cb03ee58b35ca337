"""The dashboard: static files served at `/`, which call the API below `/v1`."""
