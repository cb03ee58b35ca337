"""The worker in its cluster: its registration, its requests, and its pod's deletion cost."""
