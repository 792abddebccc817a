"""The audit, read: entries in order, their chain checked, its head signed, exports and deletions."""
