"""Arithmetic whose bits never change: random numbers, elementary functions, moments, linear algebra."""
