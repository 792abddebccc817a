"""A day of jobs on a pool of workers, under KEDA's rules: how many pods, how long a wait, at what cost."""
