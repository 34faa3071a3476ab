"""How a long take is planned, made chunk by chunk, and resumed."""
