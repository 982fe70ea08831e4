"""One process for each instance of a version: what starts it, what runs inside it, and how to talk to it."""
