"""OpenLineage events and facets as data."""
