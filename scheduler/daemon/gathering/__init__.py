"""What is asked for rather than watched: clouds, prices, metrics; and how replicas share that work."""
