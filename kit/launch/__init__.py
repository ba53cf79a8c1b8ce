"""Jobs on a Slurm cluster: what runs inside a job, and what submits and watches jobs from a login node."""
