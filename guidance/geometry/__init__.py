"""The paper's mathematics, on torch alone."""
