"""Access control: who calls, by which proof, how often, and what that role may do."""
