"""Publisher keys, signatures of versions and of records, and whom to trust. The only user of ``cryptography``."""
