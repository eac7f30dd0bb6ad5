"""The KV-cache part of MLPerf Storage as a whole: its options, its score, its rules."""
