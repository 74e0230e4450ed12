"""Selection methods: one module or package a paper; none imports another."""
