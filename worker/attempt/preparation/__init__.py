"""What an attempt needs before its program starts."""
