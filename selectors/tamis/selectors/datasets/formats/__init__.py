"""Readers of one file format each: Parquet, Arrow IPC, JSON lines."""
