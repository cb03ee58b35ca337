"""The server: the Flask application and its HTTP calls."""
