"""Real Slurm clusters for tests: one machine, everything on loopback, each session in namespaces and a folder of its own."""
