"""The race probe: many processes want the same name on a filesystem, and what comes of it is counted and kept."""
