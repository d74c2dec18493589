"""The look track: only where to look is the agent's, a frozen classifier names the breed."""
