"""Webhooks: who may be told, what is said, how it is signed, and the process that delivers it."""
