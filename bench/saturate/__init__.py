"""How much a server can take: the highest rate whose p99 keeps a budget, and what comes beyond it."""
