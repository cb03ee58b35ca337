"""The Flask application, the Python client and the command line."""
