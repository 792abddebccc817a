"""The gateway: HTTP in, jobs onto Redis, results out. Holds no torch."""
