"""`seemly doctor`: looks at a deployment from one of its own places, and says what to do."""
