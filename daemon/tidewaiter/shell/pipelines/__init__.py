"""Batch pipelines put together: from a configuration to a result, with the audit trail of every step."""
