"""Webhooks: notices of what happens to jobs, sent from an outbox that outlives restarts."""
