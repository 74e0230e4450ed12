"""Requests, responses and their validation: pydantic models and nothing that computes."""
