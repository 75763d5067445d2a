"""What is worth keeping, in SQL: the store, its tables, and the steps that make them."""
