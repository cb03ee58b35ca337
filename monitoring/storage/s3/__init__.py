"""The S3 backend: requests, parallel downloads and error messages."""
