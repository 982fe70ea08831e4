"""Running the hooks on a candidate, in processes of their own, before it becomes active."""
