"""Accounts: tokens with a role, an owner and limits, in Redis, in a file and in the settings."""
