"""The federation as it is: what is watched, the mirror that it is kept in, the frozen Snapshot made of that."""
