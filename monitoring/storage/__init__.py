"""Storage: runs in a directory or in an S3 bucket, behind one interface."""
