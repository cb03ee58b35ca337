"""Why a program failed, by its output, and from where it is tried again, if at all."""
