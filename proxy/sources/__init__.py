"""Where repositories come from: each source is a plugin that claims host names."""
