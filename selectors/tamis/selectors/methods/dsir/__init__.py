"""DSIR: importance resampling on hashed n-grams (Xie et al., 2023)."""
