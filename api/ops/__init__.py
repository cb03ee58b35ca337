"""Commands for operators: they access Redis and storage directly, not through the API."""
