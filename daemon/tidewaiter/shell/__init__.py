"""The outermost ring: the tasks, the supervisor that wires them together, and the commands."""
