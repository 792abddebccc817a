"""The commands of `seemly`, by theme. Each imports what it needs when it runs, so that `--help` answers at once."""
