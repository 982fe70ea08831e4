"""Public test kits: contract suites for stores, wrappers and hooks, and a store that fails on demand. Needs pytest."""
