"""Training, the same for every family: `loop.train` runs a `task.Task`."""
