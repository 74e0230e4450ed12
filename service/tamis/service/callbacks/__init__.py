"""Webhooks at the end of jobs: addresses, signatures, delivery with retries."""
