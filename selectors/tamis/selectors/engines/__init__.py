"""Engines run a selector's tasks over units; they differ in where, never in what."""
