"""What answers look like: one example of each kind, for the OpenAPI document."""
