"""Forks: new jobs that begin from a checkpoint of another one."""
