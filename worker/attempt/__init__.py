"""One attempt: from the claim to its end, with its lease, its limits and its receipt."""
