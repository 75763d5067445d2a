"""What the daemon is told by files: the federation, policies as they change, routes between members."""
