"""What was spent, what is going to be, and what trying things out may cost."""
