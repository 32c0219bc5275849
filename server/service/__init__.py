"""The only room that knows the wire: messages to queries, answers to messages."""
