"""Phase 3, write: selection, scores, report and explanations, written and read back."""
