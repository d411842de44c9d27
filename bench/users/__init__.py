"""What the locustfiles share. `paced` imports locust, which replaces `socket`, `ssl` and `threading` for good."""
