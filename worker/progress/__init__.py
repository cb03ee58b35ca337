"""Progress of programs that do not use the library, read from their output and their files."""
