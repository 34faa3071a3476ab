"""What the commands share: environment, server, client. Standard library only."""
