"""The worker in its cluster: registered, asked to leave, weighed for scale-down."""
