"""What a user would run: real pods, captured traffic, whole proxies, one scenario beside the other."""
