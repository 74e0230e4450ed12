"""Phase 2, decide: budgets, bounds, rankings and the exact choice of rows."""
