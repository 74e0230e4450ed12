"""Text columns: tokens, n-grams and their hashes, straight from Arrow buffers."""
