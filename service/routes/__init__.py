"""What the gateway serves, one file per subject."""
