"""What all commands share: the service they talk to, options, exit codes, completion."""
