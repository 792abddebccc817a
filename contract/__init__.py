"""What crosses Redis, and nothing else: jobs, safety plans, verdicts, names of queues and keys.

Imports pydantic and the standard library only, so that the gateway, the workers and the client can all hold it.
"""
