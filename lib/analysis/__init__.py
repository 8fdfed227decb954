"""What happens inside a network: attention, tokens, frequencies, similarity."""
