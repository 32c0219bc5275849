"""What a list costs in a live server, by the way it is asked for. See `bench.serving.measure`."""
