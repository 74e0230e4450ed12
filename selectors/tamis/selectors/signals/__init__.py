"""Phase 1, map: tasks over units, the content-addressed store of their results, and engines that run them."""
