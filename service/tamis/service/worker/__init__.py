"""Running jobs: one supervisor a host, one process a job."""
