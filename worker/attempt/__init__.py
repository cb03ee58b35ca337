"""One attempt: from the claim to its end, with its lease, limits and receipt."""
