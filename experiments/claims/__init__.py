"""The papers' claims, reproduced with the puppet."""
