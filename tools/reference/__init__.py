"""The reference pages in docs/: generated from models, OpenAPI, click, docstrings and metrics."""
