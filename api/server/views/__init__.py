"""The HTTP calls: each view parses, asks the store or the storage, and answers."""
