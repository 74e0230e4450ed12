"""Places that files are read from: local folders and object stores."""
