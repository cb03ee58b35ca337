"""Why a program failed, by its output, and whether it would fail again."""
