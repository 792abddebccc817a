"""A finished job as curves and bars. matplotlib is imported when the first one is drawn, and not before."""
