"""The reaper: finds lost jobs, makes room, and backs records up to storage."""
