"""A market that does not exist, and a server that offers it as the provider would."""
