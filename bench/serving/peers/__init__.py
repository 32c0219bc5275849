"""Other servers that are given the same work. See `bench.serving.peers.peer`."""
