"""The launchers on a real Slurm."""
