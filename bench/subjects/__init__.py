"""What is measured: each subject is a chain of processes between a client and the origin."""
