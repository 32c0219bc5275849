"""The server's own subcommands of `equipoise`. Heavy imports happen inside the functions."""
