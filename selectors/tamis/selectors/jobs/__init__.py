"""A job from request to result: open, plan, execute; the catalogue of selectors."""
