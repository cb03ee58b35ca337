"""The S3 backend: requests, ranged downloads, and errors as sentences."""
