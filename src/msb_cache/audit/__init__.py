"""The log as evidence: verify, export, import, replay, and the admission of what comes from elsewhere."""
