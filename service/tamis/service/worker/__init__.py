"""Execution of jobs: one supervisor per host, one process per job."""
