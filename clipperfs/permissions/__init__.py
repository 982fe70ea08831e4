"""Who may read, publish and activate a model, as its storage enforces it: shown, set, and written as S3 policies."""
