"""Telling callers that their jobs are over: where to, signed how, and again until they heard it."""
