"""From rows of a trace to a ring of ops: order, gates, bulk writes."""
