"""What runs teach: when they came, how long they waited, how far they are, what the model makes of it."""
